"""A comparison of the bands of pictures with the means of a preprocessor, a backbone's channels and one another."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmvim.cli.errors import ENVIRONMENT, UserError, describe, warn
from mmvim.cli.first_step import takes_bands
from mmvim.cli.noise import quiet
from mmvim.models.backbones.common import picture_channels

_LOADER = 'choose bands by mmvim.LoadImageBands(bands=...)'
_DRAWS = 32  # of a sample, where what follows loading may change its bands


class PictureBands:
    """The bands of a data set's pictures: whether the model takes them, and whether all pictures have as many.

    Loaded pictures are not compared with one another, for a pipeline may make them alike; only what it has packed is.

    Args:
        dataset: As MMEngine builds it; asked for samples, should the model not take what was loaded.
        model: The model, as :func:`mmvim.cli.build_model` returns it.
        size: Height and width of the pictures that the backbone is tried with, on shapes alone. Defaults to
            (512, 512).

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from mmvim.cli import UserError
        >>> from mmvim.cli.bands import PictureBands
        >>> bands = PictureBands([], nn.Conv2d(5, 8, 4))
        >>> bands.look_at(0, 'a.npy', {}, {'inputs': torch.zeros(5, 32, 32)})
        >>> try:
        ...     bands.look_at(1, 'b.npy', {}, {'inputs': torch.zeros(4, 32, 32)})
        ... except UserError as error:
        ...     print(str(error).split('; ')[0])
        b.npy has 4 bands, and model.backbone takes 5
    """

    def __init__(self, dataset: Any, model: nn.Module, size: tuple[int, int] = (512, 512)) -> None:
        self.dataset, self.model, self.size = dataset, model, size
        self.taken: set[int] = set()  # numbers of bands that the model takes
        self.first: tuple[int, str] | None = None  # of the first packed picture, and which that is

    def look_at(self, index: int, where: str, loaded: dict, packed: Any = None) -> None:
        """Check the picture of one sample.

        Args:
            index: The sample's number.
            where: The picture's name, for messages.
            loaded: The sample after the transforms that load, with ``img`` (H, W, C).
            packed: The sample after the whole pipeline, with ``inputs`` (C, H, W). Defaults to None: it has not run.

        Raises:
            UserError: If the model is made for another number of bands, or an earlier packed picture has another.
        """
        bands = _band_count(loaded if packed is None else packed)
        if bands is None:
            return
        if bands not in self.taken:
            self._check(index, where, bands, whole=packed is not None)
            self.taken.add(bands)
        if packed is None:
            return
        first = self.first = self.first or (bands, where)
        if bands != first[0]:
            raise UserError(
                f'{where} has {bands} bands, and {first[1]} {first[0]}',
                'give it the bands of the rest, or choose them by bands of mmvim.LoadImageBands',
                ENVIRONMENT,
            )

    def _check(self, index: int, where: str, bands: int, whole: bool) -> None:
        try:
            check_bands(self.model, bands, where, self.size)
        except UserError:
            if whole:
                raise
            try:  # what follows loading may change the bands, a colour jitter only now and then
                with quiet():
                    made = {_band_count(self.dataset[index]) for _ in range(_DRAWS)}
            except Exception:  # of a transform that cannot take these bands either
                made = {bands}
            for number in filter(None, made):
                check_bands(self.model, number, where, self.size)


def check_bands(model: nn.Module, bands: int, where: str, size: tuple[int, int] = (512, 512)) -> None:
    """Check that a picture of some bands passes the preprocessor of a model and enters its backbone.

    Args:
        model: The model, as :func:`mmvim.cli.build_model` returns it.
        bands: How many bands the picture has.
        where: The picture's name, for messages.
        size: Height and width of the pictures that the backbone is tried with, on shapes alone. Defaults to
            (512, 512).

    Raises:
        UserError: If the preprocessor or the backbone is made for another number of bands.

    Examples:
        >>> from torch import nn
        >>> from mmvim.cli import UserError
        >>> from mmvim.cli.bands import check_bands
        >>> check_bands(nn.Conv2d(5, 8, 4), 5, 'field.npy')
        >>> try:
        ...     check_bands(nn.Conv2d(5, 8, 4), 3, 'field.png')
        ... except UserError as error:
        ...     print(str(error).split('; ')[0])
        field.png has 3 bands, and model.backbone takes 5
    """
    has = f'{where} has {bands} band{"s" * (bands != 1)}'
    left = _preprocessed(model, bands, has)
    taken = picture_channels(model)
    if left != taken and not takes_bands(model, left, size):
        made = '' if left == bands else f', of which model.data_preprocessor makes {left}'
        raise UserError(
            f'{has}{made}, and model.backbone takes {taken}', f'set model.backbone.in_channels={left}, or {_LOADER}'
        )
    if left < bands:
        warn(
            f'{has}, and model.data_preprocessor keeps {left}: for all of them set bgr_to_rgb=False, mean and std for '
            f'each band and model.backbone.in_channels={bands}'
        )


def _preprocessed(model: nn.Module, bands: int, has: str) -> int:
    """Return how many channels the preprocessor makes of the bands of a picture."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    if not isinstance(preprocessor, nn.Module):
        return bands
    mean = getattr(preprocessor, 'mean', None)
    means = 0 if mean is None else len(mean)
    try:
        done = preprocessor({'inputs': [torch.zeros(bands, 32, 32)], 'data_samples': []}, training=False)
        return int(done['inputs'].shape[1])
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        if means not in (0, 1, bands):
            raise UserError(
                f'{has}, and model.data_preprocessor has mean and std for {means}',
                f'give it {bands} of each (mmvim.SegBandsPreprocessor and mmvim.DetBandsPreprocessor take any number) '
                f'and model.backbone.in_channels={bands}, or {_LOADER}',
            ) from error
        if bands != 3 and getattr(preprocessor, '_channel_conversion', False):
            raise UserError(
                f'{has}, and bgr_to_rgb of model.data_preprocessor exchanges those of 3 ({describe(error)})',
                'set bgr_to_rgb=False of it',
            ) from error
    except Exception:  # of preprocessors that take more than pictures: nothing is known of them
        pass
    return bands


def _band_count(sample: Any) -> int | None:
    """Return how many bands the picture of a sample has, loaded (H, W, C) or packed (C, H, W); None if unknown."""
    picture = sample.get('inputs', sample.get('img')) if isinstance(sample, dict) else None
    if isinstance(picture, np.ndarray) and picture.ndim in (2, 3):
        return 1 if picture.ndim == 2 else picture.shape[2]
    return picture.shape[0] if isinstance(picture, Tensor) and picture.ndim == 3 else None
