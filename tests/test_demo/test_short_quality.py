"""Two trainings of seconds on the demo's scenes must end where they have ended before.

The small siblings of ``test_quality.py``, for every run of the tests. Three seeds each gave 16.5, 17.4, 18.5 % mIoU and
0.77, 0.62, 0.67 AP. A tenth of the learning rate is the fault that must show; a scan whose gradients have the wrong
sign does not (16.3 and 0.74): projections around it learn in its place. The tests of gradients are there for that.
"""

import json

import pytest
from checkout import ROOT, load_config
from mmengine.config import Config
from mmengine.runner import Runner

from mmvim import cli
from mmvim.checkpoints import allow_checkpoint_globals
from scenes import DemoSceneParams, write_demo_scenes

SEGMENTATION = (13.0, 23.0)  # mIoU in percent
DETECTION = (0.45, 0.95)  # box AP
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quick_runners')]


def scores_of(cfg: Config, folder, iterations: int, rate: float, seed: int) -> dict:
    """Train, and return what was scored at the end."""
    cfg.optim_wrapper.optimizer.lr = rate
    cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
    cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = 10
    cfg.param_scheduler[1].end = iterations
    cfg.default_hooks.checkpoint = None
    cfg.work_dir, cfg.log_level, cfg.randomness.seed = str(folder), 'ERROR', seed
    cfg.visualizer.name = cfg.experiment_name = str(folder).strip('/').replace('/', '_')
    allow_checkpoint_globals()
    Runner.from_cfg(cfg).train()
    (scalars,) = folder.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    return [line for line in lines if 'mIoU' in line or 'coco/bbox_mAP' in line][-1]


def segmentation(folder, rate: float = 2e-3, seed: int = 0, iterations: int = 300) -> float:
    """mIoU, in percent, of 20 scenes after 300 iterations of 4 others: a Vim of four blocks of 48 channels."""
    write_demo_scenes(folder / 'demo', DemoSceneParams(train=60, val=20, size=(64, 64)))
    cfg = cli.load_config(str(ROOT / 'configs/demo/upernet_vim_demo.py'), None)
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].dataset.data_root = str(folder / 'demo/ADEChallengeData2016')
    cfg.custom_hooks = []
    cfg.model.data_preprocessor.size = (64, 64)
    cfg.model.backbone.update(
        arch={'embed_dims': 48, 'depth': 4, 'd_state': 8}, img_size=(64, 64), out_indices=(0, 1, 2, 3)
    )
    cfg.model.neck.embed_dim = 48
    cfg.model.decode_head.update(in_channels=[48] * 4, channels=24)
    return scores_of(cfg, folder / 'work', iterations, rate, seed)['mIoU']


def detection(folder, rate: float = 2e-3, seed: int = 0, iterations: int = 150) -> float:
    """Box AP of four scenes learned by heart in 150 iterations of 2: Mask R-CNN on a MambaVision of 12 channels."""
    write_demo_scenes(folder / 'demo', DemoSceneParams(train=4, val=1, size=(64, 96)))
    cfg = load_config('demo_coco/mambavision-w20_mask-rcnn_1xb4-1200_demo-288x192.py')
    annotations, root, scale = 'annotations/instances_train2017.json', str(folder / 'demo/coco'), (144, 96)
    for part in ('train', 'val', 'test'):
        data = cfg[f'{part}_dataloader'].dataset
        chance = ('RandomResize', 'RandomCrop', 'RandomFlip')
        pipeline = [step for step in data.pipeline if step['type'] not in (*chance, 'mmvim.KeepRatioResize')]
        pipeline.insert(-1, {'_scope_': 'mmdet', 'type': 'mmvim.KeepRatioResize', 'scale': scale})
        data.update(data_root=root, ann_file=annotations, data_prefix={'img': 'train2017/'}, pipeline=pipeline)
    for part in ('val', 'test'):
        cfg[f'{part}_evaluator'].ann_file = f'{root}/{annotations}'
    cfg.train_dataloader.batch_size = 2
    shrink_detector(cfg.model)
    return scores_of(cfg, folder / 'work', iterations, rate, seed)['coco/bbox_mAP']


def shrink_detector(model: Config) -> None:
    """Make the demo's Mask R-CNN as small as learns by heart."""
    arch = {'depths': (1, 1, 2, 2), 'dim': 12, 'in_dim': 12, 'num_heads': (1, 2, 2, 4), 'window_sizes': (8, 8, 9, 9)}
    model.backbone.update(drop_path_rate=0.0, arch=arch)
    model.neck.update(in_channels=[12, 24, 48, 96], out_channels=32)
    model.rpn_head.update(in_channels=32, feat_channels=32)
    heads = model.roi_head
    heads.bbox_roi_extractor.out_channels = heads.mask_roi_extractor.out_channels = 32
    heads.bbox_head.update(in_channels=32, fc_out_channels=128)
    heads.mask_head.update(in_channels=32, conv_out_channels=32, num_convs=1)
    model.train_cfg.rcnn.sampler.num = 32
    model.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=100)
    model.test_cfg.rpn.update(nms_pre=100, max_per_img=50)
    model.test_cfg.rcnn.max_per_img = 20


def needs(library: str) -> None:
    """Skip where the toolbox is missing."""
    pytest.importorskip(library)
    if library == 'mmdet':
        pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators, which detectors need')


def test_segmentation(tmp_path):
    needs('mmseg')
    low, high = SEGMENTATION
    assert low < segmentation(tmp_path) < high


def test_detection(tmp_path):
    needs('mmdet')
    low, high = DETECTION
    assert low < detection(tmp_path) < high


def test_a_segmentor_that_learns_slower_falls_out(tmp_path):
    needs('mmseg')
    assert segmentation(tmp_path, rate=2e-4) < SEGMENTATION[0] - 2


def test_a_detector_that_learns_slower_falls_out(tmp_path):
    needs('mmdet')
    assert detection(tmp_path, rate=2e-4) < DETECTION[0] - 0.1
