"""Data preprocessors for pictures of any number of bands, where MMEngine's takes the means of 1 or 3."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from mmengine.model import ImgDataPreprocessor
from torch import Tensor

from mmvim.datasets.errors import BandsError
from mmvim.registry import MODELS

_COLOURS = ('bgr_to_rgb', 'rgb_to_bgr')


@cache
def _for_bands(base: type[ImgDataPreprocessor]) -> type[ImgDataPreprocessor]:
    """Return a preprocessor like ``base`` that takes any number of means, and checks that pictures have as many."""

    class BandsPreprocessor(base):  # type: ignore[valid-type]
        def __init__(self, mean: Sequence[float], std: Sequence[float], **kwargs: Any) -> None:
            super().__init__(mean=None, std=None, **kwargs)
            self._enable_normalize = True
            self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), False)  # (C, 1, 1)
            self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), False)

        def forward(self, data: dict, training: bool = False) -> Any:
            pictures, bands = data['inputs'], self.get_buffer('mean').shape[0]
            for number, picture in enumerate(pictures if isinstance(pictures, (list, tuple, Tensor)) else ()):
                if picture.shape[0] != bands:
                    samples = data.get('data_samples') or ()
                    path = getattr(samples[number], 'img_path', None) if number < len(samples) else None
                    named = f' ({path})' if path else ''
                    raise BandsError(
                        f'a picture of {picture.shape[0]} bands{named} comes to a data_preprocessor with {bands} '
                        'means; give mean and std for each band, or choose bands in mmvim.LoadImageBands'
                    )
            return super().forward(data, training)

    BandsPreprocessor.__name__ = BandsPreprocessor.__qualname__ = f'Bands{base.__name__}'
    return BandsPreprocessor


def _check(mean: Sequence[float], std: Sequence[float], options: dict) -> None:
    if not mean or len(mean) != len(std):
        raise ValueError(f'mean and std must have a value for each band, got {len(mean)} and {len(std)}')
    if any(not value > 0 for value in std):
        raise ValueError(f'std={list(std)} must be positive: pictures are divided by it')
    for name in _COLOURS:
        if options.get(name) and len(mean) != 3:
            raise ValueError(f'{name}=True exchanges colours of 3 bands, and there are {len(mean)}; set it to False')


@MODELS.register_module()
def DetBandsPreprocessor(mean: Sequence[float], std: Sequence[float], **kwargs: Any) -> ImgDataPreprocessor:
    """Build MMDetection's ``DetDataPreprocessor`` for pictures of any number of bands.

    Args:
        mean: What is taken off each band.
        std: What each band is then divided by, positive.
        **kwargs: Other arguments of ``DetDataPreprocessor``, such as ``pad_size_divisor``.

    Raises:
        ValueError: If ``mean`` and ``std`` differ in length, a ``std`` is not positive, or ``bgr_to_rgb`` is set for
            other than 3 bands.

    Examples:
        >>> from mmvim.models.preprocessors import DetBandsPreprocessor
        >>> try:
        ...     DetBandsPreprocessor(mean=[0, 0, 0, 0], std=[1, 1, 1])
        ... except ValueError as error:
        ...     print(error)
        mean and std must have a value for each band, got 4 and 3
    """
    _check(mean, std, kwargs)
    from mmdet.models.data_preprocessors import DetDataPreprocessor

    return _for_bands(DetDataPreprocessor)(mean=mean, std=std, **kwargs)


@MODELS.register_module()
def SegBandsPreprocessor(mean: Sequence[float], std: Sequence[float], **kwargs: Any) -> ImgDataPreprocessor:
    """Build MMSegmentation's ``SegDataPreProcessor`` for pictures of any number of bands.

    Args:
        mean: What is taken off each band.
        std: What each band is then divided by, positive.
        **kwargs: Other arguments of ``SegDataPreProcessor``, such as ``size``.

    Raises:
        ValueError: If ``mean`` and ``std`` differ in length, a ``std`` is not positive, or ``bgr_to_rgb`` is set for
            other than 3 bands.

    Examples:
        >>> from mmvim.models.preprocessors import SegBandsPreprocessor
        >>> try:
        ...     SegBandsPreprocessor(mean=[0] * 5, std=[1] * 5, bgr_to_rgb=True)
        ... except ValueError as error:
        ...     print(error)
        bgr_to_rgb=True exchanges colours of 3 bands, and there are 5; set it to False
    """
    _check(mean, std, kwargs)
    from mmseg.models.data_preprocessor import SegDataPreProcessor

    return _for_bands(SegDataPreProcessor)(mean=mean, std=std, **kwargs)
