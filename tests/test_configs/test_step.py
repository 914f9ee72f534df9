"""Every config of a segmentor, made small, builds, trains for a step and tests on a picture with its own parts."""

import math

import pytest
import torch
from families import family_of
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import save_checkpoint

from mmvim.registry import MODELS

pytestmark = pytest.mark.slow  # every config


def train_and_test(cfg) -> tuple[Runner, dict]:
    """Run one training iteration and the test loop; every trainable parameter must get a gradient."""
    runner = Runner.from_cfg(cfg)
    reached = set()
    for name, param in runner.model.named_parameters():
        param.register_post_accumulate_grad_hook(lambda p, name=name: reached.add(name))
    runner.train()
    missed = {name for name, param in runner.model.named_parameters() if param.requires_grad} - reached
    assert not missed, f'no gradient for {sorted(missed)}: DistributedDataParallel would stop with an error'
    loss = runner.message_hub.get_scalar('train/loss').current()
    assert math.isfinite(loss) and loss > 0
    return runner, runner.test()


def test_one_step(segmentor_config, load, shrink):
    cfg = load(segmentor_config)
    runner, metrics = train_and_test(shrink(cfg))

    assert 0 <= metrics['mIoU'] <= 100
    assert runner.iter == 1
    groups = runner.optim_wrapper.optimizer.param_groups
    assert max(g['initial_lr'] for g in groups) == pytest.approx(cfg.optim_wrapper.optimizer.lr)
    assert len({g['weight_decay'] for g in groups}) == 2
    assert all(g['lr'] < 0.1 * g['initial_lr'] for g in groups), 'the warm-up has hardly begun'
    if cfg.optim_wrapper.constructor.startswith('mmvim.'):
        rate = cfg.optim_wrapper.get('paramwise_cfg', {}).get('layer_decay_rate', 1.0)
        backbone = getattr(runner.model.backbone, 'plain', runner.model.backbone)  # inside of an adapter
        layers = len(family_of(cfg.model.backbone).blocks(backbone)) + 2 if rate < 1 else 1
        scales = sorted({g['lr_scale'] for g in groups}, reverse=True)
        assert scales == pytest.approx([rate**k for k in range(layers)]), 'one learning rate for each layer'


def test_tta(load, shrink):
    cfg = shrink(load('vim/vim-tiny_upernet_4xb8-60k_ade20k-512x512.py'))
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = {**cfg.tta_model, 'module': cfg.model}
    assert 0 <= Runner.from_cfg(cfg).test()['mIoU'] <= 100


def test_pretrained_backbone_by_option(load, shrink, tmp_path):
    """The options of the READMEs load a backbone, positions resized to the config's."""
    init_default_scope('mmseg')
    cfg = shrink(load('vim/vim-tiny_upernet_4xb8-60k_ade20k-512x512.py'))
    pretrained = MODELS.build({**cfg.model.backbone, 'img_size': 32, 'cls_token': 'middle'})
    with torch.no_grad():
        for param in pretrained.parameters():
            param.normal_()
    file = tmp_path / 'backbone.pth'
    save_checkpoint({'state_dict': pretrained.state_dict()}, str(file))

    cfg.merge_from_dict({'model.backbone.init_cfg.type': 'Pretrained', 'model.backbone.init_cfg.checkpoint': str(file)})
    backbone = MODELS.build(cfg.model).backbone
    backbone.init_weights()
    loaded, given = backbone.state_dict(), pretrained.state_dict()
    assert loaded['pos_embed'].shape == (1, 16, 16) and given['pos_embed'].shape == (1, 5, 16)
    assert set(given) - set(loaded) == {'cls_token'}
    assert loaded['pos_embed_grid'].tolist() == [4, 4] and given['pos_embed_grid'].tolist() == [2, 2]
    for name in set(loaded) - {'pos_embed', 'pos_embed_grid'}:
        assert torch.equal(loaded[name], given[name]), name
