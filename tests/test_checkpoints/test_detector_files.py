"""The heads of published detectors are told by the names of their weights, and built from their shapes."""

from collections import OrderedDict

import pytest
import torch
from family_cases.base import randomised
from family_cases.mambavision import SMALL_MAMBAVISION
from mmengine.registry import MODELS, init_default_scope

from mmvim import checkpoints
from mmvim.models import MambaVision

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators, which detectors need')

KINDS = {'mask-rcnn': ('MaskRCNN', 'StandardRoIHead'), 'cascade-mask-rcnn': ('CascadeRCNN', 'CascadeRoIHead')}


def narrow(kind, masks=True, norm=None):
    """Mmdet's own model of a kind around a small backbone, as narrow as the backbone."""
    from mmvim.checkpoints.heads import _stock_model

    model = _stock_model(kind)
    model.backbone = {'type': 'mmvim.MambaVision', 'arch': SMALL_MAMBAVISION}
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=8, norm_cfg=norm)
    model.rpn_head.update(in_channels=8, feat_channels=16)
    roi = model.roi_head
    roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = 8
    for head in roi.bbox_head if isinstance(roi.bbox_head, list) else [roi.bbox_head]:
        head.update(in_channels=8, fc_out_channels=24, num_classes=5)
    roi.mask_head.update(in_channels=8, conv_out_channels=16, num_classes=5, num_convs=2)
    if not masks:
        roi.mask_roi_extractor = roi.mask_head = None
    return model


def build(model):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return MODELS.build(dict(model)).eval()


@pytest.mark.parametrize('norm', [None, {'type': 'SyncBN', 'requires_grad': True}])
@pytest.mark.parametrize('masks', [True, False])
@pytest.mark.parametrize('kind', KINDS)
def test_detectors(kind, masks, norm, write):
    """Configs read off a file build a model of the same weights, types and outputs."""
    given = narrow(kind, masks, norm)
    model = build(given)
    detector, roi_head = KINDS[kind]
    found = checkpoints.read(write(model.state_dict(), 'state_dict'), arch=SMALL_MAMBAVISION, window_sizes=(8, 8, 8, 4))
    assert found.kind == 'detector' and found.head['type'] == roi_head and type(model).__name__ == detector
    other = build({**given, 'backbone': found.backbone, 'neck': found.neck, **found.heads})
    other.load_state_dict(found.state_dict, strict=True)
    features = [torch.randn(1, 8, 16 >> level, 16 >> level) for level in range(5)]
    with torch.no_grad():
        for a, b in zip(outputs(model.roi_head, features), outputs(other.roi_head, features), strict=True):
            assert torch.equal(a, b)


def outputs(roi_head, features):
    """What the heads, of a cascade the last ones, say of two boxes."""
    rois = torch.tensor([[0.0, 4.0, 4.0, 40.0, 40.0], [0.0, 10.0, 2.0, 30.0, 60.0]])
    stage = [2] if isinstance(roi_head.bbox_head, torch.nn.ModuleList) else []
    found = [*roi_head._bbox_forward(*stage, features, rois).values()]
    if roi_head.with_mask:
        found += roi_head._mask_forward(*stage, features, rois).values()
    return [value for value in found if isinstance(value, torch.Tensor)]


def test_four_convolutions(write):
    """The box heads of some published detectors, with one kind of detector or the other."""
    for kind in KINDS:
        given = narrow(kind)
        roi = given.roi_head
        for head in roi.bbox_head if isinstance(roi.bbox_head, list) else [roi.bbox_head]:
            head.update(type='Shared4Conv1FCBBoxHead', conv_out_channels=16, norm_cfg={'type': 'BN'})
        found = checkpoints.read(write(build(given).state_dict()), arch=SMALL_MAMBAVISION)
        heads = found.head['bbox_head']
        for head in heads if kind.startswith('cascade') else [heads]:
            assert (head['type'], head['num_shared_convs'], head['num_shared_fcs']) == ('ConvFCBBoxHead', 4, 1)
            assert (head['loss_bbox']['type'] == 'GIoULoss') == kind.startswith('cascade')
        build({**given, **found.heads}).load_state_dict(build(given).state_dict(), strict=True)


def test_heads_of_another_type(write):
    backbone = randomised(MambaVision(SMALL_MAMBAVISION)).state_dict(prefix='backbone.')
    neck = {f'neck.{kind}_convs.0.conv.weight': torch.zeros(8, 8, 1, 1) for kind in ('fpn', 'lateral')}
    rpn = {'rpn_head.rpn_conv.weight': torch.zeros(8, 8, 3, 3)}
    for more, lost in (
        ({**neck, 'bbox_head.conv_cls.weight': torch.zeros(1)}, 'rpn_head.rpn_conv.weight'),
        ({**neck, 'bbox_head.retina_cls.weight': torch.zeros(1)}, 'bbox_head.retina_reg.weight'),
        ({**neck, **rpn, 'roi_head.bbox_head.fc.weight': torch.zeros(1)}, 'roi_head.bbox_head.fc_cls.weight'),
        ({'rpn_head.rpn_conv.0.conv.weight': torch.zeros(1)}, 'neck.fpn_convs.0.conv.weight'),
    ):
        found = checkpoints.read(write(OrderedDict(backbone, **more)), arch=SMALL_MAMBAVISION)
        assert found.kind == 'detector'
        with pytest.raises(checkpoints.CheckpointError, match=f'the file has no {lost}; its head is of another type'):
            _ = found.heads
