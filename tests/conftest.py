"""What holds for every test, and what tests of several folders need."""

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer


@pytest.hookimpl(tryfirst=True)  # before pytest looks at `-m`
def pytest_collection_modifyitems(items):
    """Mark as ``full`` what ``covering`` leaves to ``make test-all``."""
    from covering import leave_to_full

    leave_to_full(items)


@pytest.fixture(autouse=True)
def no_globals_of_runners():
    """Leave none of MMEngine's globals behind: a logger that a test silenced would be silent in the next one."""
    yield
    for cls in (DefaultScope, MMLogger, MessageHub, Visualizer):
        cls._instance_dict.clear()


@pytest.fixture
def quick_runners(monkeypatch):
    """Leave configs unformatted: MMEngine formats them several times a run, for longer than small models train."""
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **options: (text, False))


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Fill memory that nobody initialises with NaN, so that reading it shows."""
    import torch

    with torch.device('cpu'):  # on its first use PyTorch notes which functions make tensors: these, not ours
        torch.empty(0)
    empty, new_empty, empty_like = torch.empty, torch.Tensor.new_empty, torch.empty_like
    empty_strided = torch.empty_strided

    def poison(x):
        if type(x) is torch.Tensor and x.device.type == 'cpu' and not torch.compiler.is_compiling():
            # Written, it takes all of its memory; the system would end the worker without a word.
            assert x.nbytes < 2**30, f'a test makes a tensor of {x.nbytes / 2**30:.1f} GiB'
        return x.fill_(float('nan')) if x.is_floating_point() and x.device.type != 'meta' else x

    monkeypatch.setattr(torch, 'empty', lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, 'empty_strided', lambda *a, **k: poison(empty_strided(*a, **k)))
    monkeypatch.setattr(torch, 'empty_like', lambda *a, **k: poison(empty_like(*a, **k)))
    monkeypatch.setattr(torch.Tensor, 'new_empty', lambda *a, **k: poison(new_empty(*a, **k)))


@pytest.fixture(scope='session')
def load():
    """Read a config by its path below ``configs/``; the caller owns the copy."""
    from checkout import load_config  # here, so that the tests of mmvim/ops need no model

    return load_config


@pytest.fixture(scope='session')
def train():
    """``tools/train.py``."""
    from checkout import load_tool

    return load_tool('train.py')


@pytest.fixture(scope='session')
def evaluate():
    """``tools/test.py``."""
    from checkout import load_tool

    return load_tool('test.py')
