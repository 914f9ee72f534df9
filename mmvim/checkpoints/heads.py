"""Config dicts of the parts beside the backbone, derived from the shapes of their weights.

The types are the libraries' own. Each dict carries ``_scope_``, so that it builds under any default scope.
"""

from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError

# mmdet's own configs of the models that published detectors build on.
_STOCK = '.mim/configs/_base_/models/{}_r50_fpn.py'


def head_configs(parts: OrderedDict[str, Tensor], kind: str, aux_index: int = 2) -> dict[str, dict]:
    """Derive the config dicts of neck and heads.

    Known are a linear layer, alone or behind a hidden one; UPerHead and FCNHead; FPN with the heads of Mask R-CNN or
    Cascade Mask R-CNN, which are told apart by the number in the names of the box heads (``roi_head.bbox_head.0.…``).

    Args:
        parts: Tensors by the names of the parts (``decode_head.…``).
        kind: 'classifier', 'segmentor' or 'detector'; any other kind has no parts.
        aux_index: Which map the auxiliary head reads if its width does not tell. Defaults to 2.

    Returns:
        Configs by name of the part: 'head'; 'decode_head', 'auxiliary_head'; 'neck', 'rpn_head', 'roi_head'.

    Raises:
        CheckpointError: If the type of a head is not known here, or mmdet is needed and missing.
    """
    if kind == 'classifier':
        classes, channels = parts['head.fc.weight'].shape
        config = {'type': 'mmvim.LinearReadout', 'in_channels': channels, 'num_classes': classes}
        if 'head.hidden.weight' in parts:
            hidden, channels = parts['head.hidden.weight'].shape
            config.update(type='mmvim.HiddenReadout', in_channels=channels, hidden_channels=hidden)
        return {'head': config}
    if kind == 'segmentor':
        return _segmentor(parts, aux_index)
    return _detector(parts) if kind == 'detector' else {}


def _shape(parts: dict[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in parts:
        raise CheckpointError(f'the file has no {name}', 'its head is of another type: give the config of its model')
    return tuple(parts[name].shape)


def _count(parts: dict[str, Tensor], start: str, end: str) -> int:
    return sum(name.startswith(start) and name.endswith(end) for name in parts)


def _norm(parts: dict[str, Tensor], name: str) -> dict | None:
    if f'{name}.weight' not in parts:
        return None
    if f'{name}.running_mean' not in parts:
        raise CheckpointError(f'{name} is not a batch norm', 'give the config of the model that the file is of')
    return {'type': 'SyncBN', 'requires_grad': True}


def _segmentor(parts: dict[str, Tensor], aux_index: int) -> dict[str, dict]:
    classes, channels = _shape(parts, 'decode_head.conv_seg.weight')[:2]
    levels = _count(parts, 'decode_head.lateral_convs.', 'conv.weight')
    widths = [_shape(parts, f'decode_head.lateral_convs.{i}.conv.weight')[1] for i in range(levels)]
    widths.append(_shape(parts, 'decode_head.psp_modules.0.1.conv.weight')[1])
    scales = _count(parts, 'decode_head.psp_modules.', 'conv.weight')
    if scales != 4:
        raise CheckpointError(
            f'the UPerHead pools at {scales} scales', 'give the config of its model: the file does not say which'
        )
    common = {
        '_scope_': 'mmseg',
        'num_classes': classes,
        'align_corners': False,
        'norm_cfg': _norm(parts, 'decode_head.bottleneck.bn'),
    }
    loss = {'type': 'CrossEntropyLoss', 'use_sigmoid': False}
    configs = {
        'decode_head': {
            'type': 'UPerHead',
            **common,
            'in_channels': widths,
            'in_index': list(range(len(widths))),
            'pool_scales': (1, 2, 3, 6),
            'channels': channels,
            'dropout_ratio': 0.1,
            'loss_decode': {**loss, 'loss_weight': 1.0},
        }
    }
    if 'auxiliary_head.conv_seg.weight' in parts:
        inner, width = _shape(parts, 'auxiliary_head.convs.0.conv.weight')[:2]
        index = widths.index(width) if widths.count(width) == 1 else aux_index
        configs['auxiliary_head'] = {
            'type': 'FCNHead',
            **common,
            'in_channels': width,
            'in_index': index,
            'channels': inner,
            'num_convs': _count(parts, 'auxiliary_head.convs.', 'conv.weight'),
            'concat_input': 'auxiliary_head.conv_cat.conv.weight' in parts,
            'dropout_ratio': 0.1,
            'norm_cfg': _norm(parts, 'auxiliary_head.convs.0.bn'),
            'loss_decode': {**loss, 'loss_weight': 0.4},
        }
    return configs


def _detector(parts: dict[str, Tensor]) -> dict[str, dict]:
    cascade = any(name.startswith('roi_head.bbox_head.0.') for name in parts)
    model = _stock_model('cascade-mask-rcnn' if cascade else 'mask-rcnn')
    width = _shape(parts, 'neck.fpn_convs.0.conv.weight')[0]
    levels = _count(parts, 'neck.lateral_convs.', 'conv.weight')
    neck = dict(
        model.neck,
        _scope_='mmdet',
        out_channels=width,
        in_channels=[_shape(parts, f'neck.lateral_convs.{i}.conv.weight')[1] for i in range(levels)],
    )
    norm = _norm(parts, 'neck.fpn_convs.0.bn')
    if norm is not None:
        neck.update(norm_cfg=norm, no_norm_on_lateral='neck.lateral_convs.0.bn.weight' not in parts)
    rpn = dict(
        model.rpn_head, _scope_='mmdet', in_channels=width, feat_channels=_shape(parts, 'rpn_head.rpn_conv.weight')[0]
    )
    roi = dict(model.roi_head, _scope_='mmdet')
    roi['bbox_roi_extractor'] = dict(roi['bbox_roi_extractor'], out_channels=width)
    if cascade:
        heads = [_box_head(parts, f'roi_head.bbox_head.{i}', base, width) for i, base in enumerate(roi['bbox_head'])]
        for head in heads:
            if head['type'] == 'ConvFCBBoxHead':
                # The published 4conv1fc heads; their loss is not in the file.
                head.update(reg_decoded_bbox=True, loss_bbox={'type': 'GIoULoss', 'loss_weight': 10.0})
        roi['bbox_head'] = heads
    else:
        roi['bbox_head'] = _box_head(parts, 'roi_head.bbox_head', roi['bbox_head'], width)
    at = 'roi_head.mask_head.0' if cascade else 'roi_head.mask_head'
    if f'{at}.conv_logits.weight' in parts:
        roi['mask_roi_extractor'] = dict(roi['mask_roi_extractor'], out_channels=width)
        roi['mask_head'] = _mask_head(parts, at, roi['mask_head'], width)
    else:
        roi['mask_roi_extractor'] = roi['mask_head'] = None
    return {'neck': neck, 'rpn_head': rpn, 'roi_head': roi}


def _stock_model(name: str) -> Config:
    """Read the model of one of mmdet's own configs."""
    spec = find_spec('mmdet')
    if spec is None or spec.origin is None:
        raise CheckpointError(
            'config dicts of a detector need mmdet, which is not installed', 'install it, or use the weights alone'
        )
    # Not mmengine.hub.get_config: that would install mmdet.
    return Config.fromfile(Path(spec.origin).parent / _STOCK.format(name)).model


def _box_head(parts: dict[str, Tensor], at: str, base: dict, width: int) -> dict:
    classes, hidden = _shape(parts, f'{at}.fc_cls.weight')
    head = dict(
        base,
        in_channels=width,
        fc_out_channels=hidden,
        num_classes=classes - 1,
        reg_class_agnostic=_shape(parts, f'{at}.fc_reg.weight')[0] == 4,
    )
    convs = _count(parts, f'{at}.shared_convs.', 'conv.weight')
    if convs:
        head.update(
            type='ConvFCBBoxHead',
            num_shared_convs=convs,
            num_shared_fcs=_count(parts, f'{at}.shared_fcs.', 'weight'),
            conv_out_channels=_shape(parts, f'{at}.shared_convs.0.conv.weight')[0],
            norm_cfg=_norm(parts, f'{at}.shared_convs.0.bn'),
        )
    return head


def _mask_head(parts: dict[str, Tensor], at: str, base: dict, width: int) -> dict:
    classes, inner = _shape(parts, f'{at}.conv_logits.weight')[:2]
    return dict(
        base,
        in_channels=width,
        conv_out_channels=inner,
        num_classes=classes,
        num_convs=_count(parts, f'{at}.convs.', 'conv.weight'),
    )
