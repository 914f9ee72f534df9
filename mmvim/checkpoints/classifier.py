"""Published classifiers with their weights, and the views that they were evaluated on."""

from collections import OrderedDict

from mmengine.registry import MODELS
from torch import nn

from mmvim.checkpoints.errors import CheckpointError, some
from mmvim.checkpoints.families import FAMILIES
from mmvim.checkpoints.read import Published
from mmvim.checkpoints.view import CROP_MODES, FILTERS, View

_LARGEST_SIDE = 1 << 15


def preprocessing(
    found: Published,
    img_size: int | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    crop_mode: str | None = None,
) -> View:
    """Return the publisher's view of a picture, with whatever is given here instead.

    Args:
        found: A classifier.
        img_size: Side of the input in pixels. Defaults to None, what ``found`` was read for: by default the
            publisher's.
        crop_pct: In (0, 1]. Defaults to None, the publisher's.
        interpolation: 'bicubic' or 'bilinear'. Defaults to None, the publisher's.
        crop_mode: 'center' or 'squash'. Defaults to None, the publisher's.

    Returns:
        The transform of a picture to the network's input.

    Raises:
        CheckpointError: If a value is out of range.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim import checkpoints
        >>> from mmvim.models import Vim
        >>> arch = {'embed_dims': 16, 'depth': 2}
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'model': Vim(arch).state_dict()}, file.name)
        ...     found = checkpoints.read(file.name, arch=arch)
        >>> print(checkpoints.preprocessing(found, crop_pct=1.0))
        pictures: shorter side 224, bicubic, centre 224 x 224 (crop pct 1.0)
    """
    size = _input_size(found) if img_size is None else img_size
    published = FAMILIES[found.family].view(found.arch, size)
    crop_pct = published.crop_pct if crop_pct is None else crop_pct
    if not 0 < crop_pct <= 1 or size < 1:
        raise CheckpointError(f'crop_pct={crop_pct} must be in (0, 1] and img_size={size} positive', 'omit them')
    if size / crop_pct > _LARGEST_SIDE:
        raise CheckpointError(
            f'crop_pct={crop_pct} of img_size={size} asks for pictures of more than {_LARGEST_SIDE} pixels a side',
            'give a larger crop_pct or a smaller img_size',
        )
    interpolation = interpolation or published.interpolation
    crop_mode = crop_mode or published.crop_mode
    for name, value, known in (('interpolation', interpolation, FILTERS), ('crop_mode', crop_mode, CROP_MODES)):
        if value not in known:
            raise CheckpointError(f'{name}={value!r} is not one of {", ".join(known)}', 'omit it')
    return View(size, crop_pct, interpolation, crop_mode)


def _input_size(found: Published) -> int:
    """Return the side of the pictures that a classifier's config is made for."""
    size = FAMILIES[found.family].input_size(found.arch, found.backbone)
    if not isinstance(size, int):
        raise CheckpointError(f'{found.report.source} was read for pictures of {size} pixels', 'give img_size')
    return size


def build_classifier(found: Published) -> nn.Module:
    """Build the classifier of a file with its weights, in eval mode: pictures (B, 3, H, W) to logits (B, classes).

    Args:
        found: What :func:`mmvim.checkpoints.read` returned.

    Raises:
        CheckpointError: If the file is not a classifier's.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim import checkpoints
        >>> from mmvim.models import Vim
        >>> arch = {'embed_dims': 16, 'depth': 2}
        >>> weights = Vim(arch, cls_token='middle', final_norm=True).state_dict()
        >>> weights.update({'head.weight': torch.zeros(10, 16), 'head.bias': torch.zeros(10)})
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'model': weights}, file.name)
        ...     model = checkpoints.build_classifier(checkpoints.read(file.name, arch=arch))
        >>> model.backbone.cls_token_type, model.head.fc.out_features, model.training
        ('middle', 10, False)
    """
    if found.kind != 'classifier':
        raise CheckpointError(
            f'{found.report.source} is a {found.kind}, not a classifier', 'give one with a head', misfit=True
        )
    others = [name for name in found.state_dict if not name.startswith(('backbone.', 'head.'))]
    if others:
        raise CheckpointError(
            f'{found.report.source} has {some(others)} beside its head, not part of a classifier',
            'give a classifier',
            misfit=True,
        )
    model = nn.Sequential(
        OrderedDict(backbone=MODELS.build(dict(found.backbone)), head=MODELS.build(dict(found.heads['head'])))
    )
    model.load_state_dict(found.state_dict, strict=True)
    return model.eval()
