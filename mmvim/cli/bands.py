"""A comparison of the bands of a picture with the means of a model's preprocessor and the channels of its backbone."""

import torch
from torch import nn

from mmvim.cli.errors import UserError, describe, warn
from mmvim.cli.first_step import takes_bands
from mmvim.models.backbones.common import picture_channels

_LOADER = 'choose bands by mmvim.LoadImageBands(bands=...)'


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
