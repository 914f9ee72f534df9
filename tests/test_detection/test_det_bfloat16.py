"""Detectors of every kind take a step in bfloat16 on a CPU, where neither mmcv's operators nor NMS have it."""

import math

import pytest
import torch
from mmengine.runner import Runner

CASCADE = 'mambavision/mambavision-tiny_cascade-mask-rcnn_8xb2-amp-3x_coco.py'
KINDS = [
    pytest.param('vim/vim-tiny_vitdet-cascade-mask-rcnn_4xb16-amp-lsj-100e_coco.py', marks=pytest.mark.full),
    'plainmamba/plainmamba-adapter-l1_retinanet_8xb2-1x_coco.py',
    pytest.param('vrwkv/vrwkv-adapter-tiny_mask-rcnn_8xb2-1x_coco.py', marks=pytest.mark.full),
    pytest.param('vmamba/vmamba-tiny_mask-rcnn_8xb2-1x_coco.py', marks=pytest.mark.full),
    pytest.param(CASCADE, marks=pytest.mark.full),
]


@pytest.mark.slow
@pytest.mark.parametrize('file', KINDS)
def test_one_step(file, load, shrink):
    cfg = shrink(load(file), shallow=True)
    cfg.optim_wrapper.type = 'mmvim.Bfloat16OptimWrapper'
    runner = Runner.from_cfg(cfg)
    seen = set()
    for part in runner.model.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(lambda m, a, y: seen.add((m.training, y.dtype)))
    runner.train()
    loss = runner.message_hub.get_scalar('train/loss').current()
    assert math.isfinite(loss) and loss > 0 and runner.iter == 1
    assert (True, torch.bfloat16) in seen
    assert all(p.grad is None or p.grad.isfinite().all() for p in runner.model.parameters())
