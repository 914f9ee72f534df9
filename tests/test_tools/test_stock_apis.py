"""MMSegmentation's and MMDetection's functions and inferencers take mmvim's configs, without mmvim imported before."""

import importlib
import sys

import cv2
import numpy as np
import pytest
import torch
from checkout import CONFIGS
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope
from tiny_runs import run

pytestmark = pytest.mark.slow  # whole models, in other processes

SEGMENTOR = """
import sys
import numpy as np
from mmseg.apis import MMSegInferencer, inference_model, init_model

def predict(config, weights, picture):
    model = init_model(config, weights, device='cpu')
    yield inference_model(model, picture).seg_logits.data.numpy()
    yield MMSegInferencer(config, weights, device='cpu')(picture, return_vis=False)['predictions']
"""
DETECTOR = """
import sys
import numpy as np
from mmdet.apis import DetInferencer, inference_detector, init_detector

def predict(config, weights, picture):
    model = init_detector(config, weights, device='cpu')
    yield inference_detector(model, picture).pred_instances.bboxes.numpy()
    yield DetInferencer(config, weights, device='cpu')(picture, return_vis=False)['predictions'][0]['bboxes']
"""
ALONE = """
assert not any(name.partition('.')[0] == 'mmvim' for name in sys.modules)
np.savez(sys.argv[1], *predict(*sys.argv[2:]))
assert 'mmvim' in sys.modules
"""


# A user's configs: an entry by its path, for small pictures.
SMALL = {
    'mmseg': """
_base_ = '{configs}/upernet_vim_t_ade20k.py'
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=(96, 64))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(backbone=dict(img_size=64), test_cfg=dict(_delete_=True, mode='whole'))
""",
    'mmdet': """
_base_ = '{configs}/mask_rcnn_mambavision_t_coco.py'
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=(96, 64))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(backbone=dict(window_sizes=(8, 8, 4, 2)))
""",
}


def write_weights(cfg, library, path):
    """Random weights of a config's model, with the classes, as a training saves them."""
    registries = importlib.import_module(f'{library}.registry')
    with DefaultScope.overwrite_default_scope(library), torch.random.fork_rng():
        torch.manual_seed(0)
        model = registries.MODELS.build(cfg.model)
        meta = registries.DATASETS.get(cfg.test_dataloader.dataset.type).METAINFO
    state = model.state_dict()
    if library == 'mmdet':
        state['roi_head.bbox_head.fc_cls.weight'] *= 300  # scores above the threshold
    log = {'log_scalars': {'train/loss': HistoryBuffer([0.5], [1])}, 'runtime_info': {}, 'resumed_keys': {}}
    torch.save({'state_dict': state, 'meta': {'dataset_meta': meta}, 'message_hub': log}, path)


@pytest.mark.parametrize(('library', 'program'), [('mmseg', SEGMENTOR), ('mmdet', DETECTOR)], ids=['mmseg', 'mmdet'])
def test_in_a_process_of_their_own(library, program, tmp_path):
    """Functions and inferencer see what they see where mmvim was imported first."""
    if library == 'mmdet':
        pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators, which detectors need')
    config, weights, picture = (tmp_path / name for name in ('mine.py', 'weights.pth', 'picture.png'))
    config.write_text(SMALL[library].format(configs=CONFIGS))
    write_weights(Config.fromfile(config), library, weights)
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    arguments = tuple(map(str, (config, weights, picture)))
    done = run(sys.executable, '-c', program + ALONE, tmp_path / 'alone.npz', *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'weights_only' not in done.stdout + done.stderr  # nor has MMEngine fallen back to unpickling everything

    scope = {}
    exec(program, scope)
    function, inferencer = np.load(tmp_path / 'alone.npz').values()
    expected = next(scope['predict'](*arguments))
    np.testing.assert_allclose(function, expected, rtol=1e-4, atol=1e-4)
    if library == 'mmseg':
        assert function.shape == (150, 64, 96) and len(np.unique(inferencer)) > 1
        assert (inferencer == function.argmax(0)).mean() > 0.99
    else:
        assert function.shape == (100, 4) and np.ptp(function) > 10
        np.testing.assert_allclose(inferencer, function, rtol=1e-4, atol=1e-2)
