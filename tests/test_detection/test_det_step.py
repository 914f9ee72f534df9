"""Every recipe of a detector, made small, takes a training step and evaluates; its parameter groups are right."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from checkout import box_detectors, one_of_each_kind
from families import narrow_backbone
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from small_detectors import RATIO

VITDET = [f'vim/vim-tiny_vitdet-{head}_4xb16-amp-lsj-100e_coco.py' for head in ('mask-rcnn', 'cascade-mask-rcnn')]
HIERARCHICAL = 'mambavision/mambavision-tiny_cascade-mask-rcnn_8xb2-amp-3x_coco.py'
PANOPTIC = 'mambavision/mambavision-tiny_mask2former_8xb2-lsj-50e_coco-panoptic.py'
STATE = ('A_log', 'A_b_log', 'D', 'D_b')


def gradients_reach(model) -> set[str]:
    """A set that receives the name of each parameter that gets a gradient from now on."""
    reached = set()
    for name, param in model.named_parameters():
        param.register_post_accumulate_grad_hook(lambda p, name=name: reached.add(name))
    return reached


@pytest.mark.slow
@pytest.mark.parametrize('file', one_of_each_kind(box_detectors()))
def test_one_step(file, load, shrink):
    runner = Runner.from_cfg(shrink(load(file)))
    reached = gradients_reach(runner.model)
    runner.train()
    missed = {name for name, param in runner.model.named_parameters() if param.requires_grad} - reached
    assert not missed, f'no gradient for {sorted(missed)}: DistributedDataParallel would stop with an error'
    loss = runner.message_hub.get_scalar('train/loss').current()
    assert math.isfinite(loss) and loss > 0 and runner.iter == 1
    scores = {key: runner.message_hub.get_scalar(f'val/coco/{key}').current() for key in ('bbox_mAP', 'segm_mAP')}
    assert all(-1 <= score <= 1 for score in scores.values())


@pytest.mark.slow
@pytest.mark.parametrize('size', ['l1', 'l3'])
def test_one_step_of_boxes_alone(size, load, shrink):
    runner = Runner.from_cfg(shrink(load(f'plainmamba/plainmamba-adapter-{size}_retinanet_8xb2-1x_coco.py')))
    reached = gradients_reach(runner.model)
    runner.train()
    assert not {name for name, param in runner.model.named_parameters() if param.requires_grad} - reached
    loss = runner.message_hub.get_scalar('train/loss').current()
    assert math.isfinite(loss) and loss > 0 and runner.iter == 1
    assert -1 <= runner.message_hub.get_scalar('val/coco/bbox_mAP').current() <= 1


def parameter_groups(cfg):
    """Map the names of a model's parameters to (lr / base lr, weight decay, dimensions)."""
    init_default_scope('mmdet')
    from mmdet.registry import MODELS

    model = MODELS.build(cfg.model)
    base_lr = cfg.optim_wrapper.optimizer.lr
    groups = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper)).optimizer.param_groups
    of = {id(p): (g['lr'] / base_lr, g['weight_decay']) for g in groups for p in g['params']}
    return {name: (*of[id(p)], p.ndim) for name, p in model.named_parameters()}


@pytest.mark.parametrize('file', VITDET)
def test_every_block_learns_at_its_own_rate(file, load, shrink):
    cfg = shrink(load(file))
    scales, blocks = parameter_groups(cfg), 24
    seen = set()
    for name, (scale, _, _) in scales.items():
        block = re.match(r'backbone\.layers\.(\d+)\.', name)
        depth = int(block.group(1)) + 1 if block else 0 if name.startswith('backbone.') else blocks + 1
        assert scale == pytest.approx(0.837 ** (blocks + 1 - depth)), name
        seen.add(round(scale, 9))
    assert len(seen) == blocks + 2, 'the embeddings, 24 blocks, neck and heads'
    assert {name.split('.')[0] for name, (scale, _, _) in scales.items() if scale == 1} == {
        'neck',
        'rpn_head',
        'roi_head',
    }


@pytest.mark.parametrize('file', [VITDET[1], HIERARCHICAL, PANOPTIC])
def test_what_decays(file, load, shrink):
    cfg = load(file)
    if file == PANOPTIC:
        narrow_mask2former(cfg.model)
    else:
        cfg = shrink(cfg)
    decayed = cfg.optim_wrapper.optimizer.weight_decay
    names = parameter_groups(cfg)
    free = {name for name, (_, decay, _) in names.items() if decay == 0}
    for name, (_, decay, ndim) in names.items():
        leaf = name.rpartition('.')[2]
        learned = re.search(r'query_embed|query_feat|level_embed', name)
        if leaf in STATE or leaf == 'pos_embed' or ndim == 1 or leaf.endswith('bias') or learned:
            assert decay == 0, name
        else:
            assert decay == decayed, name
    assert any('A_log' in name for name in free) and any('norm' in name or '.levels.' in name for name in free)


def test_the_groups_are_printed(load, shrink):
    runner = Runner.from_cfg(shrink(load(VITDET[0])))
    runner.train()
    (log,) = Path(runner.work_dir).glob('*/*.log')
    text = log.read_text()
    assert 'layer decay 0.837' in text and 'lr scale' in text
    rows = [line for line in text.splitlines() if re.match(r'\s+[\d.e-]+\s+[\d.e-]+\s+[\d.]+\s+\d+\s+[\d,]+$', line)]
    assert len({row.split()[0] for row in rows}) == 26, rows


def narrow_mask2former(model):
    """Make Mask2Former small: 32 channels, two layers of each kind, eight queries."""
    channels = narrow_backbone(model.backbone, RATIO)
    head = model.panoptic_head
    head.update(
        in_channels=channels,
        feat_channels=32,
        out_channels=32,
        num_queries=8,
        positional_encoding={'num_feats': 16, 'normalize': True},
    )
    decoder = head.pixel_decoder
    decoder.positional_encoding.num_feats = 16
    decoder.encoder.num_layers = head.transformer_decoder.num_layers = 2
    for layer in (decoder.encoder.layer_cfg, head.transformer_decoder.layer_cfg):
        for part, settings in layer.items():
            if part.endswith('_cfg'):
                settings.embed_dims = 32
        layer.ffn_cfg.feedforward_channels = 64
    model.train_cfg.num_points = 64
    for augment in model.data_preprocessor.batch_augments:
        augment.size = (128, 128)


def test_mask2former_steps_and_predicts(load):
    """Panoptic segmentation: things and stuff of a made-up picture; the evaluator would need panopticapi."""
    import numpy as np
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    torch.manual_seed(0)
    init_default_scope('mmdet')
    cfg = load(PANOPTIC)
    narrow_mask2former(cfg.model)
    model = MODELS.build(cfg.model)
    optim = build_optim_wrapper(model, cfg.optim_wrapper)

    def sample(height, width):
        masks = np.zeros((2, height, width), np.uint8)
        masks[0, : height // 2], masks[1, height // 2 :, : width // 2] = 1, 1
        stuff = torch.full((1, height, width), 100)
        stuff[0, : height // 2], stuff[0, height // 2 :, : width // 2] = 3, 7
        item = DetDataSample(
            metainfo={'img_shape': (height, width), 'ori_shape': (height, width), 'scale_factor': (1.0, 1.0)}
        )
        item.gt_instances = InstanceData(
            labels=torch.tensor([3, 7]), masks=BitmapMasks(masks, height, width), bboxes=torch.zeros(2, 4)
        )
        item.gt_sem_seg = PixelData(sem_seg=stuff)
        return item

    shapes = [(96, 128), (64, 80)]
    data = {
        'inputs': [torch.randint(0, 256, (3, *shape), dtype=torch.uint8) for shape in shapes],
        'data_samples': [sample(*shape) for shape in shapes],
    }
    model.train()
    reached = gradients_reach(model)
    losses = model.train_step(data, optim)
    assert math.isfinite(losses['loss'].item())
    assert {name for name, _ in model.named_parameters()} == reached
    model.eval()
    results = model.test_step({key: value[:1] for key, value in data.items()})
    assert results[0].pred_panoptic_seg.sem_seg.shape[-2:] == (96, 128)
