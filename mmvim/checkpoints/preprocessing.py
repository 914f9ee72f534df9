"""Published classifiers, and the pictures that they were evaluated on."""

from collections import OrderedDict
from dataclasses import dataclass

import mmcv
import numpy as np
import torch
from mmengine.registry import MODELS
from PIL import Image
from torch import Tensor, nn

from mmvim.checkpoints.errors import CheckpointError, some
from mmvim.checkpoints.published import Published

# ImageNet's mean and standard deviation of red, green and blue in 0..1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Side of the crop over the side of the resized picture. Vim: DeiT's 224 / 256, in its evaluation code. MambaVision: its
# model configurations; the author repeats T's at https://github.com/NVlabs/MambaVision/issues/57.
_DEFAULT_CROP = 0.875
_CROP = {
    'vim': {},
    'mambavision': {'tiny': 1.0, 'tiny2': 0.98, 'small': 0.93, 'base': 1.0, 'large': 1.0, 'large2': 1.0, 'large3': 1.0},
}
# At 512 pixels L2 and L3 see the whole picture squashed to a square, whose border is then cut off.
_SQUASHED_SIZE, _SQUASHED_CROP = 512, 0.93
CROP_MODES = ('center', 'squash')
_LARGEST_SIDE = 1 << 15
_FILTERS = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class View:
    """The transform of a picture to a network's input: resize to ``img_size / crop_pct``, crop the centre, normalise.

    Attributes:
        img_size: Side of the network's input in pixels.
        crop_pct: Side of the crop over the side of the resized picture.
        interpolation: 'bicubic' or 'bilinear', antialiased as in Pillow.
        crop_mode: 'center' resizes the shorter side and keeps the aspect ratio, 'squash' resizes both sides to the
            same. Defaults to 'center'.

    Examples:
        >>> import numpy as np
        >>> from mmvim.checkpoints import View
        >>> view = View(img_size=224, crop_pct=0.875, interpolation='bicubic')
        >>> view(np.zeros((300, 400, 3), np.uint8)).shape
        torch.Size([3, 224, 224])
        >>> print(view)
        pictures: shorter side 256, bicubic, centre 224 x 224 (crop pct 0.875)
    """

    img_size: int
    crop_pct: float
    interpolation: str
    crop_mode: str = 'center'

    def __call__(self, picture: np.ndarray) -> Tensor:
        """Turn a picture (H, W, 3), RGB, uint8, into an input (3, img_size, img_size), float32."""
        short = int(self.img_size / self.crop_pct)
        height, width = picture.shape[:2]
        if self.crop_mode == 'squash':
            size = (short, short)
        else:
            size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        resized = np.asarray(Image.fromarray(picture).resize(size, _FILTERS[self.interpolation]))
        top, left = (round((side - self.img_size) / 2) for side in resized.shape[:2])
        crop = resized[top : top + self.img_size, left : left + self.img_size]
        normed = mmcv.imnormalize(crop, 255 * np.array(MEAN), 255 * np.array(STD), to_rgb=False)
        return torch.from_numpy(normed.transpose(2, 0, 1).copy()).float()  # (3, img_size, img_size)

    def __str__(self) -> str:
        sides = 'both sides' if self.crop_mode == 'squash' else 'shorter side'
        return (
            f'pictures: {sides} {int(self.img_size / self.crop_pct)}, {self.interpolation}, '
            f'centre {self.img_size} x {self.img_size} (crop pct {self.crop_pct})'
        )


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
        img_size: Side of the input in pixels. Defaults to None, what ``found`` was read for: by default 224, for
            MambaVision-L3 256.
        crop_pct: In (0, 1]. Defaults to None, the publisher's.
        interpolation: 'bicubic' or 'bilinear'. Defaults to None, 'bicubic'.
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
    squashed = found.arch in ('large2', 'large3') and size == _SQUASHED_SIZE
    if crop_pct is None:
        crop_pct = (
            _SQUASHED_CROP
            if squashed
            else _CROP[found.family].get(found.arch if isinstance(found.arch, str) else '', _DEFAULT_CROP)
        )
    if not 0 < crop_pct <= 1 or size < 1:
        raise CheckpointError(f'crop_pct={crop_pct} must be in (0, 1] and img_size={size} positive', 'omit them')
    if size / crop_pct > _LARGEST_SIDE:
        raise CheckpointError(
            f'crop_pct={crop_pct} of img_size={size} asks for pictures of more than {_LARGEST_SIDE} pixels a side',
            'give a larger crop_pct or a smaller img_size',
        )
    interpolation = interpolation or 'bicubic'
    crop_mode = crop_mode or ('squash' if squashed else 'center')
    for name, value, known in (('interpolation', interpolation, _FILTERS), ('crop_mode', crop_mode, CROP_MODES)):
        if value not in known:
            raise CheckpointError(f'{name}={value!r} is not one of {", ".join(known)}', 'omit it')
    return View(size, crop_pct, interpolation, crop_mode)


def _input_size(found: Published) -> int:
    """Return the side of the pictures that a classifier's config is made for."""
    windows = found.backbone.get('window_sizes')
    if windows is not None:
        return 16 * windows[2]  # a window covers the map of the third level
    size = found.backbone.get('img_size') or (256 if found.arch == 'large3' else 224)
    if not isinstance(size, int):
        raise CheckpointError(f'{found.report.source} was read for pictures of {size} pixels', 'give img_size')
    return size


def read_picture(file: str) -> np.ndarray:
    """Read a picture as an array (H, W, 3), RGB, uint8.

    Args:
        file: Its path.

    Raises:
        CheckpointError: If the file is missing or not a picture.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> from mmvim import checkpoints
        >>> with tempfile.NamedTemporaryFile(suffix='.png') as file:
        ...     Image.new('RGB', (40, 30), 'red').save(file.name)
        ...     picture = checkpoints.read_picture(file.name)
        >>> picture.shape, picture[0, 0].tolist()
        ((30, 40, 3), [255, 0, 0])
    """
    try:
        return np.asarray(Image.open(file).convert('RGB'))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's for damaged files
        raise CheckpointError(f'picture {file} cannot be read ({error})', 'give a JPEG or PNG file') from error


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
