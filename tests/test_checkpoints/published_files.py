"""Files as publishers write them, filled with the stand-in weights of ``tests/golden`` or with narrow models'."""

import argparse
import functools
import importlib.util
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from mmvim.models import LinearReadout, MambaVision, Vim

GOLDEN = Path(__file__).parents[1] / 'golden'
_spec = importlib.util.spec_from_file_location('golden_synthetic', GOLDEN / 'synthetic.py')
synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic)


@functools.cache
def golden_tensors(case):
    """The publisher's tensors of a golden case, shared: not to be changed in place."""
    made = synthetic.checkpoint(synthetic.load(case))
    return OrderedDict((name, torch.from_numpy(np.asarray(value))) for name, value in made.items())


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


SMALL_VIM = {'embed_dims': 16, 'depth': 2, 'd_state': 4}
SMALL_MAMBAVISION = {'depths': (1, 1, 2, 2), 'dim': 8, 'in_dim': 8, 'num_heads': (1, 1, 2, 4)}


def randomised(module, seed=0):
    """The module, every weight its own random number."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(
                    torch.rand(value.shape, generator=generator) + 0.5
                    if name.endswith('running_var')
                    else torch.randn(value.shape, generator=generator) * 0.2
                )
    return module


def published_vim(**settings):
    model = randomised(Vim(SMALL_VIM, cls_token='middle', final_norm=True, **settings))
    head = randomised(LinearReadout(SMALL_VIM['embed_dims'], 7), 1)
    return OrderedDict(model.state_dict(), **{f'head.{n}': v for n, v in head.fc.state_dict().items()})


def published_mambavision():
    model = randomised(MambaVision(SMALL_MAMBAVISION, out_norm=False, final_norm=True))
    head = randomised(LinearReadout(64, 7), 1)
    return OrderedDict(model.state_dict(), **{f'head.{n}': v for n, v in head.fc.state_dict().items()})
