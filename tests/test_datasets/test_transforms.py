"""KeepRatioResize: the task's own Resize, and a pixel where that leaves none."""

import numpy as np
import pytest
from mmengine.registry import TRANSFORMS, DefaultScope

import mmvim  # noqa: F401
from mmvim.datasets.transforms import KeepRatioResize


def sample(height, width):
    rng = np.random.default_rng(0)
    return {
        'img': rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        'img_shape': (height, width),
        'gt_seg_map': rng.integers(0, 9, (height, width), dtype=np.uint8),
    }


@pytest.mark.parametrize('scale', [(100, 60), (60, 100), 80])
@pytest.mark.parametrize('shape', [(40, 70), (130, 90), (1, 80), (3, 200)])
def test_it_is_resize_wherever_that_works(scale, shape):
    ours = TRANSFORMS.build({'type': 'mmvim.KeepRatioResize', 'scale': scale})(sample(*shape))
    stock = TRANSFORMS.build({'type': 'Resize', 'scale': scale, 'keep_ratio': True})(sample(*shape))
    assert set(ours) == set(stock)
    for key, value in stock.items():
        assert np.array_equal(ours[key], value), key


@pytest.mark.parametrize(('shape', 'expected'), [((1, 4000), (1, 100)), ((4000, 1), (100, 1)), ((2, 9000), (1, 100))])
def test_a_flat_picture_keeps_a_pixel(shape, expected):
    transform = KeepRatioResize((100, 60))
    result = transform(sample(*shape))
    assert result['img'].shape == (*expected, 3) and result['img_shape'] == expected
    assert result['gt_seg_map'].shape == expected
    assert result['scale_factor'] == (expected[1] / shape[1], expected[0] / shape[0])
    assert transform(sample(40, 70))['img_shape'] == (57, 100), 'the next picture keeps its ratio again'


@pytest.mark.parametrize(
    'outer',
    [
        {'type': 'RandomResize', 'scale': (100, 60), 'ratio_range': (0.5, 2.0)},
        {'type': 'RandomChoiceResize', 'scales': [(100, 60), (80, 50)]},
    ],
)
def test_as_resize_type_of_mmcvs_transforms(outer):
    transform = TRANSFORMS.build({**outer, 'resize_type': 'mmvim.KeepRatioResize'})
    stock = TRANSFORMS.build({**outer, 'keep_ratio': True})
    for shape in ((40, 70), (1, 9000), (41, 70)):
        np.random.seed(3)
        height, width = transform(sample(*shape))['img_shape']
        np.random.seed(3)
        if shape[0] > 1:
            assert stock(sample(*shape))['img_shape'] == (height, width)
        else:
            assert height == 1 and 50 <= width <= 200


def test_masks_and_boxes_of_a_flat_picture():
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators, which mmdet needs')
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks, PolygonMasks

    for masks in (
        PolygonMasks([[np.array([1000.0, 0, 3000, 0, 3000, 1, 1000, 1])]], 1, 4000),
        BitmapMasks(np.ones((1, 1, 4000), np.uint8), 1, 4000),
    ):
        boxes = HorizontalBoxes(np.array([[1000, 0, 3000, 1]], np.float32))
        with DefaultScope.overwrite_default_scope('mmseg'):  # the scope of the dict counts, as in an inherited config
            transform = TRANSFORMS.build({'_scope_': 'mmdet', 'type': 'mmvim.KeepRatioResize', 'scale': (100, 60)})
        result = transform({**sample(1, 4000), 'gt_bboxes': boxes, 'gt_masks': masks})
        assert (result['gt_masks'].height, result['gt_masks'].width) == (1, 100)
        assert result['gt_bboxes'].tensor.tolist() == [[25, 0, 75, 1]]
