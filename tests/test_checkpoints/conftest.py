"""Files as publishers write them, filled with the stand-in weights of ``tests/golden``."""

import argparse
import functools
import importlib.util
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / 'golden'
_spec = importlib.util.spec_from_file_location('golden_synthetic', GOLDEN / 'synthetic.py')
_synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_synthetic)


@pytest.fixture(scope='session')
def synthetic():
    return _synthetic


@functools.cache
def _tensors(case):
    made = _synthetic.checkpoint(_synthetic.load(case))
    return OrderedDict((name, torch.from_numpy(np.asarray(value))) for name, value in made.items())


@pytest.fixture(scope='session')
def tensors():
    """The publisher's tensors of a golden case; the caller must not change them in place."""
    return lambda case: OrderedDict(_tensors(case))


def _prefixed(weights, prefix):
    return OrderedDict((prefix + name, value) for name, value in weights.items())


def _save_safetensors(weights, path):
    safetensors = pytest.importorskip('safetensors.torch')
    safetensors.save_file({name: value.contiguous() for name, value in weights.items()}, path, {'format': 'pt'})


CONTAINERS = {
    # What Vim's training script writes: options and optimizer beside the weights, and a moving average of them.
    'model': lambda w: {'model': w, 'optimizer': {'state': {0: {'step': 3}}}, 'epoch': 299, 'scaler': {'scale': 1.},
                        'args': argparse.Namespace(lr=5e-4, model='vim', output_dir='out')},
    'model_ema': lambda w: {'model': OrderedDict((k, torch.zeros_like(v)) for k, v in w.items()), 'model_ema': w},
    'state_dict': lambda w: {'epoch': 310, 'arch': 'mamba_vision_T', 'state_dict': w, 'version': 2, 'metric': 82.3,
                             'args': argparse.Namespace(opt='lamb')},
    'module.': lambda w: {'state_dict': _prefixed(w, 'module.')},
    'encoder.': lambda w: {'model': _prefixed(w, 'encoder.')},
    'backbone.': lambda w: {'state_dict': _prefixed(w, 'backbone.'), 'meta': {'epoch': 3}},
    'module.model.': lambda w: {'model': _prefixed(w, 'module.model.')},
    'bare': lambda w: w,
}


@pytest.fixture
def write(tmp_path):
    """Write weights in a container; returns the file."""
    def call(weights, container='model', name='published.pth'):
        path = tmp_path / name
        if container == 'safetensors':
            _save_safetensors(_prefixed(weights, 'model.'), path)
        else:
            torch.save(CONTAINERS[container](weights), path)
        return str(path)
    return call


ALL = [*CONTAINERS, 'safetensors']


SMALL_VIM = {'embed_dims': 16, 'depth': 2, 'd_state': 4}
SMALL_MAMBAVISION = {'depths': (1, 1, 2, 2), 'dim': 8, 'in_dim': 8, 'num_heads': (1, 1, 2, 4)}


def randomised(module, seed=0):
    """The module, every weight its own random number."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + .5 if name.endswith('running_var')
                            else torch.randn(value.shape, generator=generator) * .2)
    return module
