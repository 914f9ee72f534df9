"""Transforms of a data pipeline."""

from mmcv.image.geometric import rescale_size
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS as ROOT

from mmvim.registry import TRANSFORMS


@TRANSFORMS.register_module()
class KeepRatioResize(BaseTransform):
    """Resize an image to the largest size that fits into ``scale`` at its aspect ratio, at least one pixel a side.

    Calls the library's own ``Resize(keep_ratio=True)``, except where that would round a side to zero (an image of
    1 x 4000 pixels, whose height would be 0.3): that side becomes 1 pixel, and ``scale_factor`` says so. Image, boxes,
    masks and label map are resized alike.

    Args:
        scale: The longer and the shorter side that an image must fit into, in pixels, in either order. One number
            stands for a square. It may be set later, as the attribute ``scale``: MMCV's ``RandomResize`` and
            ``RandomChoiceResize`` do so when this is their ``resize_type``.
        resize_type: The transform that resizes, as the scope of the config names it. Defaults to 'Resize', which is
            MMDetection's under 'mmdet' and MMCV's under 'mmseg'.

    Raises:
        TypeError: When an image is resized, if ``scale`` is neither a number nor a pair.

    Examples:
        >>> import numpy as np
        >>> from mmvim.datasets.transforms import KeepRatioResize
        >>> resize = KeepRatioResize(scale=(1333, 800))
        >>> resize({'img': np.zeros((480, 640, 3), np.uint8)})['img'].shape
        (800, 1067, 3)
        >>> resize({'img': np.zeros((1, 4000, 3), np.uint8)})['img'].shape
        (1, 1333, 3)
    """

    def __init__(self, scale: tuple[int, int] | int, resize_type: str = 'Resize') -> None:
        self.scale = scale
        self.resize = ROOT.build({'type': resize_type, 'scale': scale, 'keep_ratio': True})

    def transform(self, results: dict) -> dict:
        """Resize one sample, in place.

        Args:
            results: With ``img``, (H, W, ...) of any dtype, and whatever ``resize_type`` resizes with it.

        Returns:
            The same dictionary, with ``img_shape``, ``scale``, ``scale_factor`` (w, h) and ``keep_ratio`` set.
        """
        scale = (self.scale, self.scale) if isinstance(self.scale, int) else self.scale
        height, width = results['img'].shape[:2]
        size = rescale_size((width, height), scale)
        flat = min(size) < 1
        self.resize.scale = tuple(max(1, side) for side in size) if flat else scale
        self.resize.keep_ratio = not flat
        return self.resize(results)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(scale={self.scale}, resize={self.resize})'
