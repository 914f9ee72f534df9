"""The picture that a published classifier was evaluated on, and the classifier."""

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
# The files of 512 pixels (L2 and L3) see the whole picture, squeezed to a square, of which the border is cut off.
_SQUASHED_SIZE, _SQUASHED_CROP = 512, 0.93
CROP_MODES = ('center', 'squash')
_LARGEST_SIDE = 1 << 15
_FILTERS = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class View:
    """Resize to ``img_size / crop_pct``, cut out the centre, normalise.

    Attributes:
        img_size (int): Side of the network's input in pixels.
        crop_pct (float): Side of the crop over the side of the resized picture.
        interpolation (str): 'bicubic' or 'bilinear', antialiased as Pillow does it.
        crop_mode (str): 'center' resizes the shorter side and keeps the aspect, 'squash' both sides to the same.
            Defaults to 'center'.
    """

    img_size: int
    crop_pct: float
    interpolation: str
    crop_mode: str = 'center'

    def __call__(self, picture: np.ndarray) -> Tensor:
        """(H, W, 3) in RGB, uint8, to (3, img_size, img_size), float32."""
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
        return torch.from_numpy(normed.transpose(2, 0, 1).copy()).float()

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
    """The publisher's view of a picture, or what is given instead.

    Args:
        found (Published): A classifier.
        img_size (int, optional): Side of the input. Defaults to None, what `found` was read for: by default 224, for
            MambaVision-L3 256.
        crop_pct (float, optional): In (0, 1]. Defaults to None, the publisher's.
        interpolation (str, optional): 'bicubic' or 'bilinear'. Defaults to None, 'bicubic'.
        crop_mode (str, optional): 'center' or 'squash'. Defaults to None, the publisher's.

    Returns:
        View: From a picture to the network's input.

    Raises:
        CheckpointError: If a value is out of range.
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
        raise CheckpointError(f'crop_pct={crop_pct} and img_size={size} must be in (0, 1] and positive', 'correct them')
    if size / crop_pct > _LARGEST_SIDE:
        raise CheckpointError(
            f'crop_pct={crop_pct} of img_size={size} asks for pictures of more than {_LARGEST_SIDE} pixels a side',
            'correct them',
        )
    interpolation = interpolation or 'bicubic'
    crop_mode = crop_mode or ('squash' if squashed else 'center')
    for name, value, known in (('interpolation', interpolation, _FILTERS), ('crop_mode', crop_mode, CROP_MODES)):
        if value not in known:
            raise CheckpointError(f'{name}={value!r} is not one of {", ".join(known)}', 'choose one')
    return View(size, crop_pct, interpolation, crop_mode)


def _input_size(found: Published) -> int:
    """The side of the pictures that a classifier's config is made for."""
    windows = found.backbone.get('window_sizes')
    if windows is not None:
        return 16 * windows[2]  # a window covers the map of the third level
    size = found.backbone.get('img_size') or (256 if found.arch == 'large3' else 224)
    if not isinstance(size, int):
        raise CheckpointError(f'{found.report.source} was read for pictures of {size} pixels', 'give img_size')
    return size


def read_picture(file: str) -> np.ndarray:
    """A picture as (H, W, 3) in RGB, uint8.

    Raises:
        CheckpointError: If it is missing or none.
    """
    try:
        return np.asarray(Image.open(file).convert('RGB'))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, of damaged files
        raise CheckpointError(f'picture {file} cannot be read ({error})', 'give a JPEG or PNG file') from error


def build_classifier(found: Published) -> nn.Module:
    """The classifier of a file, weights and all, in eval mode: pictures (B, 3, H, W) to logits (B, classes).

    Raises:
        CheckpointError: If the file is of something else.
    """
    if found.kind != 'classifier':
        raise CheckpointError(
            f'{found.report.source} is a {found.kind}, no classifier', 'give one with a head', misfit=True
        )
    others = [name for name in found.state_dict if not name.startswith(('backbone.', 'head.'))]
    if others:
        raise CheckpointError(
            f'{found.report.source} has {some(others)} beside its head, no part of a classifier',
            'give a classifier',
            misfit=True,
        )
    model = nn.Sequential(OrderedDict(backbone=MODELS.build(dict(found.backbone)), head=MODELS.build(dict(found.head))))
    model.load_state_dict(found.state_dict, strict=True)
    return model.eval()
