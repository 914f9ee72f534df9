"""Several processes on CPUs: what PyTorch has for GPUs only is replaced."""

import pytest
import torch
from mmengine.config import Config

from mmvim.cli import machine


@pytest.mark.parametrize('where', ['option', 'layer', 'nowhere'])
def test_no_synchronised_batch_norm(where, monkeypatch, capsys):
    monkeypatch.setattr(machine, 'has_accelerator', lambda: False)
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    kind = 'SyncBN' if where == 'layer' else 'BN'
    cfg = Config({'launcher': 'pytorch', 'model': {'type': 'M', 'heads': [{'norm_cfg': {'type': kind}}]}})
    if where == 'option':
        cfg.sync_bn = 'torch'
    machine.prepare_cpu_distribution(cfg)
    assert 'sync_bn' not in cfg and cfg.model.heads[0].norm_cfg.type == 'BN'
    assert cfg.model_wrapper_cfg.device_ids is None
    assert ('no GPU: SyncBN works on GPUs only' in capsys.readouterr().err) == (where != 'nowhere')


def test_with_an_accelerator_it_stays(monkeypatch):
    monkeypatch.setattr(machine, 'has_accelerator', lambda: True)
    cfg = Config({'launcher': 'pytorch', 'model': {'type': 'M'}, 'sync_bn': 'torch'})
    machine.prepare_cpu_distribution(cfg)
    assert cfg.sync_bn == 'torch' and 'model_wrapper_cfg' not in cfg
