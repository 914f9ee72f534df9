"""Detectors in a user's hands: trained, interrupted, resumed, evaluated by the tools, and run by the inferencers.

The inferencers are MMDetection's and MMSegmentation's.
"""

import json
import pickle

import cv2
import numpy as np
import pytest
import small_detectors as small
import torch
from mmengine.registry import DefaultScope

FILES = [
    'mask_rcnn_vim_t_coco.py',
    'vitdet_vim_t_coco.py',
    'mask_rcnn_mambavision_t_coco.py',
    'cascade_mask_rcnn_mambavision_t_coco.py',
]

pytestmark = pytest.mark.slow  # whole trainings


def run_config(cfg, folder, name):
    """A file for each run: MMEngine keeps loggers and message hubs by its name."""
    cfg.experiment_name = f'{name}_{folder.name}'
    return str(small.write(cfg, folder / f'{name}.py'))


@pytest.mark.parametrize('file', FILES)
def test_train_resume_and_test(file, load, any_coco, train, evaluate, tmp_path):
    work = tmp_path / 'work'
    cfg = small.shrink(load(file), any_coco, work, shallow=True)
    by_epoch = 'max_epochs' in cfg.train_cfg
    train.main([run_config(cfg, tmp_path, 'first'), '--work-dir', str(work)])
    cfg.train_cfg['max_epochs' if by_epoch else 'max_iters'] = 2
    train.main([run_config(cfg, tmp_path, 'second'), '--work-dir', str(work), '--resume'])
    name = ('epoch_{}.pth' if by_epoch else 'iter_{}.pth').format
    before, after = (torch.load(work / name(i), weights_only=False) for i in (1, 2))
    assert (before['meta']['iter'], after['meta']['iter']) == (1, 2)
    steps = {int(state['step']) for state in after['optimizer']['state'].values()}
    assert steps == {2}, 'the optimizer went on where it had stopped'
    stem = next(key for key in before['state_dict'] if key.startswith('backbone.patch_embed.') and 'weight' in key)
    assert not torch.equal(before['state_dict'][stem], after['state_dict'][stem])

    out = tmp_path / 'predictions.pkl'
    evaluate.main(
        [
            run_config(cfg, tmp_path, 'third'),
            str(work / name(2)),
            '--work-dir',
            str(tmp_path / 'test'),
            '--out',
            str(out),
        ]
    )
    (scores,) = (tmp_path / 'test').glob('*/*.json')
    scores = json.loads(scores.read_text())
    assert {'coco/bbox_mAP', 'coco/segm_mAP', 'coco/segm_mAP_50'} <= set(scores)
    predictions = pickle.loads(out.read_bytes())
    assert len(predictions) == 2
    assert all(0 < len(item['pred_instances']['scores']) <= 5 for item in predictions)
    height, width = predictions[0]['ori_shape']
    assert predictions[0]['pred_instances']['masks'][0]['size'] == [height, width]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / 'picture.jpg'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    return path


@pytest.mark.parametrize('file', [FILES[1], FILES[2]])
def test_det_inferencer(file, load, demo_coco, picture, tmp_path):
    """From the paths of a plain config and of a checkpoint, and nothing else."""
    from mmdet.apis import DetInferencer
    from mmdet.registry import MODELS

    cfg = small.shrink(load(file), demo_coco, tmp_path, shallow=True)
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}, tmp_path / 'weights.pth')
    config = run_config(cfg, tmp_path, 'plain')
    inferencer = DetInferencer(model=config, weights=str(tmp_path / 'weights.pth'), device='cpu')
    result = inferencer(str(picture), out_dir=str(tmp_path / 'out'), no_save_pred=False)['predictions'][0]
    assert len(result['bboxes']) == len(result['scores']) == len(result['masks']) == 5
    assert result['masks'][0]['size'] == [90, 120]
    boxes = np.array(result['bboxes'])
    assert (boxes >= 0).all() and boxes[:, [0, 2]].max() <= 120 and boxes[:, [1, 3]].max() <= 90
    assert (tmp_path / 'out/vis/picture.jpg').is_file() and (tmp_path / 'out/preds/picture.json').is_file()
    flat = inferencer(np.full((1, 4000, 3), 99, np.uint8), return_vis=False)['predictions'][0]
    assert all(mask['size'] == [1, 4000] for mask in flat['masks'])


def test_mmseg_inferencer(picture, tmp_path):
    """The same for a segmentor."""
    pytest.importorskip('mmseg')
    from mmseg.apis import MMSegInferencer
    from mmseg.registry import MODELS

    config = tmp_path / 'segmentor.py'
    config.write_text(
        "_base_ = 'mmseg::_base_/default_runtime.py'\n"
        "model = dict(type='EncoderDecoder', data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),\n"
        "    backbone=dict(type='mmvim.Vim', arch=dict(embed_dims=16, depth=2, d_state=4), img_size=64),\n"
        "    decode_head=dict(type='FCNHead', in_channels=16, in_index=0, channels=8, num_convs=1, num_classes=3,\n"
        "        norm_cfg=dict(type='BN')), test_cfg=dict(mode='whole'))\n"
        "test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)),\n"
        "    dict(type='PackSegInputs')]\n"
        'test_dataloader = dict(dataset=dict(pipeline=test_pipeline))\n'
    )
    from mmengine.config import Config

    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(Config.fromfile(config).model)
    meta = {'dataset_meta': {'classes': ('a', 'b', 'c'), 'palette': [[0, 0, 0], [9, 9, 9], [99, 99, 99]]}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, tmp_path / 'weights.pth')
    inferencer = MMSegInferencer(model=str(config), weights=str(tmp_path / 'weights.pth'), device='cpu')
    labels = inferencer(str(picture), out_dir=str(tmp_path / 'out'))['predictions']
    assert labels.shape == (90, 120) and set(np.unique(labels)) <= {0, 1, 2}
