"""The containers in which publishers and libraries save weights."""

import argparse
from collections import OrderedDict

import pytest
import torch


def prefixed(weights, prefix):
    return OrderedDict((prefix + name, value) for name, value in weights.items())


def save_safetensors(weights, path):
    safetensors = pytest.importorskip('safetensors.torch')
    safetensors.save_file({name: value.contiguous() for name, value in weights.items()}, path, {'format': 'pt'})


CONTAINERS = {
    # What Vim's training script writes: options and optimizer beside the weights, and a moving average of them.
    'model': lambda w: {
        'model': w,
        'optimizer': {'state': {0: {'step': 3}}},
        'epoch': 299,
        'scaler': {'scale': 1.0},
        'args': argparse.Namespace(lr=5e-4, model='vim', output_dir='out'),
    },
    'model_ema': lambda w: {'model': OrderedDict((k, torch.zeros_like(v)) for k, v in w.items()), 'model_ema': w},
    'state_dict': lambda w: {
        'epoch': 310,
        'arch': 'mamba_vision_T',
        'state_dict': w,
        'version': 2,
        'metric': 82.3,
        'args': argparse.Namespace(opt='lamb'),
    },
    'module.': lambda w: {'state_dict': prefixed(w, 'module.')},
    'encoder.': lambda w: {'model': prefixed(w, 'encoder.')},
    'backbone.': lambda w: {'state_dict': prefixed(w, 'backbone.'), 'meta': {'epoch': 3}},
    'module.model.': lambda w: {'model': prefixed(w, 'module.model.')},
    'bare': lambda w: w,
}

ALL = [*CONTAINERS, 'safetensors']
