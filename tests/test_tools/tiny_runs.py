"""Data sets of a few pictures in ADE20K's and COCO's layout, and configs of tiny models on them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from checkout import ROOT

TOOLS = ROOT / 'tools'
SIZE = 64
COLOURS = np.array([[40, 40, 40], [200, 60, 60], [60, 200, 60], [60, 60, 200]], np.uint8)


def scene(seed: int) -> np.ndarray:
    """A label map of rectangles of classes 1 to 3 on class 0."""
    generator = np.random.default_rng(seed)
    labels = np.zeros((SIZE, SIZE), np.uint8)
    for label in (1, 2, 3):
        y, x = generator.integers(0, SIZE // 2, 2)
        h, w = generator.integers(SIZE // 4, SIZE // 2, 2)
        labels[y : y + h, x : x + w] = label
    return labels


def make_ade(root: Path, train: int = 5, val: int = 2) -> Path:
    """``images/{training,validation}/*.jpg`` and ``annotations/...png`` (0 is "other", classes from 1)."""
    for split, count, offset in (('training', train, 0), ('validation', val, 100)):
        images, masks = root / 'images' / split, root / 'annotations' / split
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for index in range(count):
            labels = scene(offset + index)
            cv2.imwrite(str(images / f'ADE_{index:03d}.jpg'), COLOURS[labels])
            cv2.imwrite(str(masks / f'ADE_{index:03d}.png'), labels + 1)
    return root


def make_coco(root: Path, count: int = 3) -> Path:
    """``images/*.jpg`` and ``instances.json`` with the rectangles of :func:`scene` as instances of three classes."""
    (root / 'images').mkdir(parents=True)
    images, annotations = [], []
    for index in range(count):
        labels = scene(index)
        name = f'{index:012d}.jpg'
        cv2.imwrite(str(root / 'images' / name), COLOURS[labels])
        images.append({'id': index, 'file_name': name, 'height': SIZE, 'width': SIZE})
        for label in (1, 2, 3):
            rows, columns = np.nonzero(labels == label)
            if len(rows) == 0:
                continue
            x, y = int(columns.min()), int(rows.min())
            w, h = int(columns.max()) + 1 - x, int(rows.max()) + 1 - y
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': index,
                    'category_id': label,
                    'bbox': [x, y, w, h],
                    'area': w * h,
                    'iscrowd': 0,
                    'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    categories = [{'id': k, 'name': name} for k, name in enumerate(('red', 'green', 'blue'), 1)]
    with open(root / 'instances.json', 'w') as stream:
        json.dump({'images': images, 'annotations': annotations, 'categories': categories}, stream)
    return root


_SEG = """
_base_ = [{bases!r} + name for name in (
    'datasets/ade20k.py', 'default_runtime.py', 'schedules/schedule_160k.py')]
crop_size = (64, 64)
data_root = {root!r}
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(1.0, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=pipeline))
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        pad_val=0, seg_pad_val=255, size=crop_size),
    backbone=dict(
        type='mmvim.Vim', arch=dict(embed_dims=16, depth=2), img_size=64, patch_size=8, drop_path_rate=0.2,
        init_cfg=None),
    decode_head=dict(
        type='FCNHead', in_channels=16, in_index=0, channels=16, num_convs=1, concat_input=False, num_classes=150,
        dropout_ratio=0.1, norm_cfg=dict(type='SyncBN', requires_grad=True),
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False)),
    test_cfg=dict(mode='whole'))
optim_wrapper = dict(
    _delete_=True, type='{wrapper}', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)]
train_cfg = dict(max_iters=4, val_interval={val_interval})
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=(64, 64), keep_ratio=True)],
        [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)],
        [dict(type='LoadAnnotations', reduce_zero_label=True)], [dict(type='PackSegInputs')]])]
"""

_DET = """
_base_ = [{bases!r} + name for name in ('models/mask-rcnn_r50_fpn.py', 'default_runtime.py')]
classes = dict(classes=('red', 'green', 'blue'))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
dataset = dict(
    type='CocoDataset', data_root={root!r}, ann_file='instances.json', data_prefix=dict(img='images/'),
    metainfo=classes)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='RepeatDataset', times=2, dataset=dict(**dataset, pipeline=pipeline)))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, test_mode=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file={root!r} + '/instances.json', metric=['bbox', 'segm'])
test_evaluator = val_evaluator
model = dict(
    backbone=dict(
        _delete_=True, type='ResNet', depth=18, base_channels=4, num_stages=4, out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN'), style='pytorch'),
    neck=dict(in_channels=[4, 8, 16, 32], out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=16, num_classes=3),
        mask_roi_extractor=dict(out_channels=8),
        mask_head=dict(in_channels=8, conv_out_channels=8, num_classes=3)),
    train_cfg=dict(rpn_proposal=dict(max_per_img=20)),
    test_cfg=dict(rpn=dict(max_per_img=20)))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
"""


def _bases(library: str) -> str:
    # As paths: `mmseg::` takes a third of a second for each base, and is tested elsewhere.
    return str(Path(importlib.util.find_spec(library).origin).parent / '.mim' / 'configs' / '_base_') + os.sep


def seg_config(path: Path, root: Path, wrapper: str = 'OptimWrapper', val_interval: int = 2) -> Path:
    """Write a config of a two-block Vim with an FCN head on :func:`make_ade`'s data, 4 iterations of 2 pictures."""
    path.write_text(_SEG.format(bases=_bases('mmseg'), root=str(root), wrapper=wrapper, val_interval=val_interval))
    return path


def det_config(path: Path, root: Path) -> Path:
    """Write a config of a Mask R-CNN on a narrow ResNet-18 on :func:`make_coco`'s data, one epoch of 3 iterations."""
    path.write_text(_DET.format(bases=_bases('mmdet'), root=str(root)))
    return path


def run(*command, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    """Run a command as a user does, on one thread."""
    path = os.pathsep.join(filter(None, (str(ROOT), env.pop('PYTHONPATH', None), os.environ.get('PYTHONPATH'))))
    return subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, **env},
    )
