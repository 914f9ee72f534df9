"""`compile=True` in a config: the same weights as without it."""

import pytest
import torch
from test_train_and_test import load, run_config
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from torch._inductor import metrics

FIXED = """
model = dict(backbone=dict(drop_path_rate=0.0), decode_head=dict(dropout_ratio=0.0))
randomness = dict(seed=0)
train_cfg = dict(val_interval=100)
"""
COMPILED = "compile = dict(backend='eager')\n"


def same(found):
    """Compare the weights after a compiled training with those after one without."""
    for key, value in found['plain'].items():
        torch.testing.assert_close(found['compiled'][key], value, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.slow
def test_a_compiled_training_computes_the_same(train, tmp_path, seg):
    found = {}
    for name, text in (('plain', FIXED), ('compiled', FIXED + COMPILED)):
        before = counters['stats']['unique_graphs']
        train.main([str(run_config(tmp_path, name, seg, text)), '--work-dir', str(tmp_path / name)])
        assert (counters['stats']['unique_graphs'] > before) == (name == 'compiled')
        found[name] = load(tmp_path / name / 'iter_4.pth')['state_dict']
    same(found)


@pytest.mark.full
def test_inductor_trains(train, tmp_path, seg, monkeypatch):
    """Three iterations of `compile=True` as it stands, C++ and all."""
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path / 'cache'))
    torch._dynamo.reset()
    found = {}
    for name, text in (('plain', ''), ('compiled', 'compile = True\n')):
        text = FIXED.replace('val_interval=100', 'max_iters=3, val_interval=100') + text
        before = metrics.generated_kernel_count
        with inductor.patch(compile_threads=1):
            train.main([str(run_config(tmp_path, name, seg, text)), '--work-dir', str(tmp_path / name)])
        assert (metrics.generated_kernel_count > before) == (name == 'compiled')
        found[name] = load(tmp_path / name / 'iter_3.pth')['state_dict']
    same(found)
