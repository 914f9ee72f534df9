"""Detection configs made small, and data in COCO's layout to run them on."""

import copy
import os
from pathlib import Path

from checkout import ROOT
from families import narrow_backbone
from family_cases.base import scaled
from mmengine.config import Config

RATIO = 1 / 8  # of the recipes' sizes of pictures and windows
PARTS = ('train', 'val', 'test')
TRAIN = 'annotations/instances_train2017.json'
VAL = 'annotations/instances_val2017.json'
SIZES = {'scale', 'scales', 'crop_size'}


def coco_mini() -> Path | None:
    """A folder with some real COCO pictures, where there is one: it is not part of the project.

    The environment variable MMVIM_COCO names it; otherwise ``shared/data/coco_mini`` in or beside the checkout counts.
    """
    folders = [os.environ.get('MMVIM_COCO'), ROOT / 'shared/data/coco_mini', ROOT.parent / 'shared/data/coco_mini']
    found = (Path(folder) for folder in folders if folder)
    return next((folder for folder in found if (folder / 'annotations/instances_train2017.json').is_file()), None)


def scale_pipeline(node: object, ratio: float = RATIO) -> None:
    """Scale the sizes in a pipeline, in place."""
    if isinstance(node, dict):
        for key in SIZES & set(node):
            node[key] = scaled(node[key], ratio)
        for value in node.values():
            scale_pipeline(value, ratio)
    elif isinstance(node, (list, tuple)):
        for item in node:
            scale_pipeline(item, ratio)


def narrow(model: dict, shallow: bool) -> None:
    """Make a detector narrow; types and losses stay, and depths too unless `shallow`."""
    channels = narrow_backbone(model['backbone'], RATIO, shallow)
    model['neck'].update(in_channels=channels[0] if len(channels) == 1 else channels, out_channels=16)
    if 'bbox_head' in model:  # of one stage
        model['bbox_head'].update(in_channels=16, feat_channels=16)
        model['test_cfg'].update(nms_pre=50, max_per_img=5, score_thr=0.0)
        return
    model['rpn_head'].update(in_channels=16, feat_channels=16)
    model['rpn_head']['anchor_generator']['scales'] = [2]
    roi_head = model['roi_head']
    for extractor in ('bbox_roi_extractor', 'mask_roi_extractor'):
        roi_head[extractor]['out_channels'] = 16
    heads = roi_head['bbox_head']
    for head in heads if isinstance(heads, list) else [heads]:
        head.update(in_channels=16, fc_out_channels=32)
        if 'conv_out_channels' in head:
            head['conv_out_channels'] = 16
    roi_head['mask_head'].update(in_channels=16, conv_out_channels=16)
    stages = model['train_cfg']['rcnn']
    for stage in stages if isinstance(stages, list) else [stages]:
        stage['sampler']['num'] = 16
    for part in (model['train_cfg']['rpn_proposal'], model['test_cfg']['rpn']):
        part.update(nms_pre=50, max_per_img=20)
    model['test_cfg']['rcnn'].update(max_per_img=5, score_thr=0.0)  # untrained, it is sure of nothing


def shrink(cfg: Config, data_root: Path, work_dir: Path, train: int = 2, val: int = 2, shallow: bool = False) -> Config:
    """Turn a recipe into one that a CPU runs in seconds on `train` and `val` pictures of a data set in COCO's layout.

    One epoch or iteration of two pictures. Pipelines, losses, optimizer and evaluator stay as the config says.
    """
    cfg = copy.deepcopy(cfg)
    narrow(cfg.model, shallow)
    divisor = cfg.model.data_preprocessor.pad_size_divisor
    if divisor > 32:
        cfg.model.data_preprocessor.pad_size_divisor = scaled(divisor, RATIO)
    for part in PARTS:
        loader = cfg[f'{part}_dataloader']
        batch = 2 if part == 'train' else min(loader.batch_size, 2)
        loader.update(num_workers=0, persistent_workers=False, batch_size=batch)
        loader.dataset.update(data_root=str(data_root), indices=train if part == 'train' else val)
        scale_pipeline(loader.dataset.pipeline)
        if part == 'train':
            loader.dataset.filter_cfg.min_size = 2
        else:
            cfg[f'{part}_evaluator'].ann_file = str(data_root / loader.dataset.ann_file)
    if cfg.train_cfg.type == 'IterBasedTrainLoop':
        cfg.train_cfg.update(max_iters=1, val_interval=1)
        cfg.default_hooks.checkpoint.interval = 1
    else:
        cfg.train_cfg.max_epochs = 1
    if cfg.optim_wrapper.type == 'AmpOptimWrapper':  # needs a GPU
        cfg.optim_wrapper.type = 'OptimWrapper'
        cfg.optim_wrapper.pop('loss_scale', None)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name
    return cfg


def write(cfg: Config, path: Path) -> Path:
    """Write a config as a file, unformatted."""
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items()) + '\n')
    return path
