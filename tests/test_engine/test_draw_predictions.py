"""Where boxes and masks stand on the sheets of predictions: at the network's size, whatever size they came in."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmvim.analysis.contact_sheet import IGNORED
from mmvim.analysis.instances import COLOURS, GAP, HEAD
from mmvim.datasets.load_bands import LoadImageBands
from mmvim.engine.hooks import BandsVisualizationHook, DrawPredictionsHook

Resize, LoadAnnotations = type('Resize', (), {}), type('LoadAnnotations', (), {})


def objects(box, size, **more):
    """One object whose mask fills its box in a picture of a size (h, w)."""
    x1, y1, x2, y2 = box
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, y1:y2, x1:x2] = True
    return InstanceData(bboxes=torch.tensor([box]).float(), labels=torch.tensor([0]), masks=mask, **more)


@pytest.mark.parametrize('after', [True, False], ids=['loaded after resizing', 'resized with the picture'])
def test_truth_and_prediction_cover_each_other(after):
    """The file is 80 x 120 pixels and the network sees 40 x 60."""
    file, network = objects([40, 20, 80, 60], (80, 120)), objects([20, 10, 40, 30], (40, 60))
    steps = [Resize(), LoadAnnotations()] if after else [LoadAnnotations(), Resize()]
    dataset = SimpleNamespace(metainfo={'classes': ['dog']}, pipeline=SimpleNamespace(transforms=steps))
    found = objects([40, 20, 80, 60], (80, 120), scores=torch.tensor([0.9]))
    result = BaseDataElement(pred_instances=found, metainfo={'scale_factor': (0.5, 0.5)})
    truth = BaseDataElement(gt_instances=file if after else network)
    hook = DrawPredictionsHook(interval=1, width=60)
    sheet = hook._instances([(torch.zeros(3, 40, 60, dtype=torch.uint8), truth, result)], dataset, 1)
    left, right = (sheet[HEAD : HEAD + 40, x : x + 60] for x in (GAP, 2 * GAP + 60))
    assert np.array_equal(left, right)
    assert np.array_equal(left[29, 20:40], np.broadcast_to(COLOURS[0], (20, 3)))  # the lower edge of the box
    assert not left[32:].any() and not left[:, 41:].any() and left[20, 30].any()


def test_objects_of_low_score_are_left_out():
    low = objects([10, 5, 30, 20], (40, 60), scores=torch.tensor([0.2]))
    dataset = SimpleNamespace(metainfo={}, pipeline=SimpleNamespace(transforms=[]))
    pairs = [(torch.zeros(3, 40, 60, dtype=torch.uint8), BaseDataElement(), BaseDataElement(pred_instances=low))]
    sheet = DrawPredictionsHook(interval=1, width=60)._instances(pairs, dataset, 1)
    assert not sheet[HEAD : HEAD + 40, 2 * GAP + 60 : -GAP].any()
    for arguments in ({'interval': 0}, {'interval': 1, 'pictures': 0}):
        with pytest.raises(ValueError, match='must be 1 or more, got 0'):
            DrawPredictionsHook(**arguments)


def ready(hook, *others):
    """The hook as it is once a run of these hooks begins."""
    hook.before_train(SimpleNamespace(val_loop=object(), hooks=[*others, hook]))
    return hook


def test_the_bands_of_the_runs_drawings_are_shown():
    """Five bands of bytes, each of one value: what is drawn says which of them it is."""
    inputs = torch.tensor([10, 60, 110, 160, 210], dtype=torch.uint8)[:, None, None].expand(5, 40, 60)
    dataset = SimpleNamespace(metainfo={}, pipeline=SimpleNamespace(transforms=[LoadImageBands()]))
    labels = PixelData(data=torch.zeros(1, 40, 60, dtype=torch.long))
    pairs = {
        'segmentation': (inputs, BaseDataElement(gt_sem_seg=labels), BaseDataElement(pred_sem_seg=labels)),
        'instances': (
            inputs,
            BaseDataElement(),
            BaseDataElement(pred_instances=objects([1, 1, 9, 9], (40, 60), scores=torch.tensor([0.0]))),
        ),
    }
    bands = BandsVisualizationHook(bands=(4, 0, 2))
    for hook, colour in (
        (ready(DrawPredictionsHook(interval=1, width=60), bands), (210, 10, 110)),
        (ready(DrawPredictionsHook(interval=1, width=60, bands=(3, 3, 1)), bands), (160, 160, 60)),
        (ready(DrawPredictionsHook(interval=1, width=60)), (10, 60, 110)),
    ):
        for kind, pair in pairs.items():
            sheet = getattr(hook, f'_{kind}')([pair], dataset, 1)
            assert (sheet == colour).all(2).sum() >= 40 * 60, (kind, colour)


def test_colours_keep_their_order():
    """The libraries' loaders have blue first, mmvim's has red first, and numbers beyond bytes are stretched."""
    hook, plain = DrawPredictionsHook(interval=1), SimpleNamespace(pipeline=SimpleNamespace(transforms=[]))
    ours = SimpleNamespace(datasets=[SimpleNamespace(pipeline=SimpleNamespace(transforms=[LoadImageBands()]))])
    picture = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None].expand(3, 4, 4)
    assert hook._colours(picture, plain)[0, 0].tolist() == [3, 2, 1]
    assert hook._colours(picture, ours)[0, 0].tolist() == [1, 2, 3]
    ramp = torch.linspace(0, 4095, 101).expand(3, 1, 101)
    shown = hook._colours(ramp, ours)
    assert shown.dtype == np.uint8 and shown[0, [0, 100], 0].tolist() == [0, 255] and shown[0, 50, 0] in (127, 128)


@pytest.mark.parametrize(('bands', 'text'), [((1, 2), 'are 2, and a picture is shown'), ((0, 1, -1), 'from 0')])
def test_bands_that_cannot_be_shown(bands, text):
    with pytest.raises(ValueError, match=text):
        DrawPredictionsHook(interval=1, bands=bands)


PALETTE = [(230, 30, 30), (30, 60, 230)]
GREY = (90, 90, 90)


def panoptic_sheet(truth, segments):
    """The sheet of one grey picture of 40 x 60 pixels, and its panels: picture, truth and prediction."""
    dataset = SimpleNamespace(metainfo={'classes': ['dog', 'sky'], 'palette': PALETTE})
    result = BaseDataElement(pred_panoptic_seg=PixelData(sem_seg=segments[None]))
    picture = torch.full((3, 40, 60), GREY[0], dtype=torch.uint8)
    sheet = DrawPredictionsHook(interval=1, width=60)._segmentation([(picture, truth, result)], dataset, 2)
    return [sheet[24:64, 6 + column * 66 : 66 + column * 66] for column in range(3)]


def like(pixels, colour):
    return np.abs(pixels.astype(int) - np.array(colour)).sum(-1) < 12


def test_panoptic_segments_are_told_apart():
    """Two dogs side by side before the sky; nothing is said of the lowest rows."""
    pytest.importorskip('mmdet.evaluation', exc_type=ImportError)
    segments = torch.full((40, 60), 1)
    segments[10:30, 10:30], segments[10:30, 30:50] = 1000, 2000
    segments[36:] = 2
    masks = torch.zeros(2, 40, 60, dtype=torch.uint8)
    masks[0, 10:30, 10:30], masks[1, 10:30, 30:50] = 1, 1
    labels = torch.where(segments < 3, segments, 0)
    labels[36:] = 255
    truth = BaseDataElement(gt_sem_seg=PixelData(sem_seg=labels[None]), gt_instances=InstanceData(masks=masks))
    picture, annotated, predicted = panoptic_sheet(truth, segments)
    inside = np.s_[1:-1, 1:-1]
    assert like(picture[inside], GREY).all() and np.array_equal(annotated[inside], predicted[inside])
    assert like(predicted[12:28, 12:28], PALETTE[0]).all() and like(predicted[12:28, 32:48], PALETTE[0]).all()
    assert like(predicted[12:28, 29:31], IGNORED).all(), 'the line between the dogs'
    assert like(predicted[2:8], PALETTE[1]).all() and like(predicted[37:39], IGNORED).all()


def test_panoptic_predictions_without_annotations():
    pytest.importorskip('mmdet.evaluation', exc_type=ImportError)
    _, annotated, predicted = panoptic_sheet(BaseDataElement(), torch.ones(40, 60, dtype=torch.long))
    assert like(annotated[1:-1, 1:-1], IGNORED).all() and like(predicted[1:-1, 1:-1], PALETTE[1]).all()
