"""Pictures as a classifier saw them in its publisher's evaluation."""

from dataclasses import dataclass

import mmcv
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError

# ImageNet's mean and standard deviation of red, green and blue in 0..1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP_MODES = ('center', 'squash')
FILTERS = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}


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
        resized = np.asarray(Image.fromarray(picture).resize(size, FILTERS[self.interpolation]))
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
