"""Two short trainings on the demo's scenes must end where they have ended before: a silent loss of quality is seen.

The limits are wide enough for other processors and versions of PyTorch, which round differently, and far from what a
model reaches that has learned nothing.
"""

import json

import pytest
from checkout import ROOT, load_module, load_tool
from mmengine.config import Config

from scenes import DemoSceneParams, write_demo_scenes

SEGMENTATION = (16.0, 32.0)  # mIoU in percent; it was 21.4
DETECTION = {'bbox_mAP': (0.55, 0.85), 'segm_mAP_50': (0.55, 0.95)}  # they were 0.684 and 0.741
pytestmark = [pytest.mark.full, pytest.mark.usefixtures('quick_runners')]


def test_segmentation(tmp_path, monkeypatch):
    """A quarter of the demo's pixels, 200 iterations of 2 scenes; the most frequent class alone has 1.9 %."""
    pytest.importorskip('mmseg')
    demo = load_module(ROOT / 'demo' / 'demo.py')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, 'QUICK_SCENES', DemoSceneParams(train=100, val=30, size=(64, 96)))
    monkeypatch.setattr(demo, 'QUICK_ITERS', 200)
    demo.main(['--quick'])
    numbers = json.loads((tmp_path / 'work_dirs/demo_quick/metrics.json').read_text())
    low, high = SEGMENTATION
    assert low < numbers['mIoU'] < high
    assert numbers['floor_mIoU'] < low / 2


def test_detection(tmp_path):
    """Ten scenes of half the demo's size learned by heart, in 150 iterations of 2."""
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators, which detectors need')
    write_demo_scenes(tmp_path / 'demo', DemoSceneParams(train=10, val=1, size=(96, 128)))
    cfg = Config.fromfile(ROOT / 'configs/demo_coco/mambavision-w20_mask-rcnn_1xb4-1200_demo-288x192.py')
    annotations, root = 'annotations/instances_train2017.json', str(tmp_path / 'demo/coco')
    pipeline = [step for step in cfg.train_pipeline if step['type'] not in ('RandomResize', 'RandomCrop', 'RandomFlip')]
    cfg.train_dataloader.update(batch_size=2)
    cfg.train_dataloader.dataset.update(data_root=root, pipeline=pipeline)
    for part in ('val', 'test'):
        loader = cfg[f'{part}_dataloader']
        loader.dataset.update(data_root=root, ann_file=annotations, data_prefix={'img': 'train2017/'})
        for step in loader.dataset.pipeline:
            if 'scale' in step:
                step['scale'] = (128, 96)  # as they are
        cfg[f'{part}_evaluator'].ann_file = f'{root}/{annotations}'
    cfg.train_cfg.update(max_iters=150, val_interval=150)
    cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = 20
    cfg.param_scheduler[1].end = 150
    cfg.default_hooks.checkpoint.interval = 150
    path = tmp_path / 'bands.py'
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items()) + '\n')
    load_tool('train.py').main([str(path), '--work-dir', str(tmp_path / 'work')])
    (scalars,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    scores = [json.loads(line) for line in scalars.read_text().splitlines() if 'coco/' in line][-1]
    for name, (low, high) in DETECTION.items():
        assert low < scores[f'coco/{name}'] < high, name
