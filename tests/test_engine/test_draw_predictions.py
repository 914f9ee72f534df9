"""Where boxes and masks stand on the sheets of predictions: at the network's size, whatever size they came in."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData

from mmvim.analysis.instances import COLOURS, GAP, HEAD
from mmvim.engine.hooks import DrawPredictionsHook

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
