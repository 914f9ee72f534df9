"""The effective receptive field: which pixels an output depends on, and how much.

Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural Networks, NeurIPS 2016,
https://arxiv.org/abs/1701.04128: the magnitude of the gradient of an output's central cell with respect to the picture.
"""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor, nn


class ReceptiveField(NamedTuple):
    """Which pixels a cell depends on.

    Attributes:
        values: float64 (H, W), on the CPU.
        centre: Where the middle of the cell lies on the picture, in pixels from its top and its left.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.receptive import ReceptiveField
        >>> ReceptiveField(torch.zeros(8, 8), (4.0, 4.0)).centre
        (4.0, 4.0)
    """

    values: Tensor
    centre: tuple[float, float]


def receptive_fields(model: nn.Module, pictures: Tensor, at: tuple[float, float] = (0.5, 0.5)) -> list[ReceptiveField]:
    """Return the effective receptive field of each map that a backbone returns.

    The model runs in evaluation mode. Of each map, the channels of one cell are summed with random signs (their plain
    sum is a constant behind a LayerNorm); the gradient's magnitudes are summed over the picture's channels and averaged
    over pictures.

    Args:
        model: A backbone: it returns a map (B, C, h, w), or several.
        pictures: (N, channels, H, W), run one by one.
        at: The cell, as shares of the map's height and width. Defaults to (0.5, 0.5), the middle.

    Returns:
        A field for each map.

    Raises:
        ValueError: If the model returns anything but maps, or ``at`` is outside of [0, 1].

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.receptive import receptive_fields
        >>> ((field, centre),) = receptive_fields(torch.nn.Conv2d(3, 4, 3, padding=1), torch.randn(2, 3, 7, 9))
        >>> field.shape, (field > 0).nonzero().amin(0).tolist(), (field > 0).nonzero().amax(0).tolist(), centre
        (torch.Size([7, 9]), [2, 3], [4, 5], (3.5, 4.5))
    """
    if not all(0 <= share <= 1 for share in at):
        raise ValueError(f'at={at} must be shares of the height and the width, each in [0, 1]')
    training, fields = model.training, None
    generator = torch.Generator().manual_seed(0)
    model.eval()
    try:
        for picture in pictures:
            seen = _gradients(model, picture[None], at, generator)
            fields = seen if fields is None else [_add(*pair) for pair in zip(fields, seen, strict=True)]
    finally:
        model.train(training)
    if fields is None:
        raise ValueError('pictures is empty; give at least one')
    return [field._replace(values=field.values / len(pictures)) for field in fields]


def _add(a: ReceptiveField, b: ReceptiveField) -> ReceptiveField:
    return a._replace(values=a.values + b.values)


def _gradients(
    model: nn.Module, picture: Tensor, at: tuple[float, float], generator: torch.Generator
) -> list[ReceptiveField]:
    picture = picture.detach().requires_grad_()
    with torch.enable_grad():
        outputs = model(picture)
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if any(not isinstance(y, Tensor) or y.ndim != 4 for y in outputs):
            raise ValueError(
                f'{type(model).__name__} must return maps (B, C, h, w), got shapes '
                f'{[tuple(getattr(y, "shape", ())) for y in outputs]}; '
                "set out_type='featmap' for a backbone with a class token"
            )
        found = []
        for y in outputs:
            row, column = (min(int(share * side), side - 1) for share, side in zip(at, y.shape[2:], strict=True))
            signs = (torch.randint(0, 2, (y.shape[1],), generator=generator) * 2 - 1).to(y)
            (gradient,) = torch.autograd.grad(y[0, :, row, column] @ signs, picture, retain_graph=True)
            height, width = picture.shape[2:]
            centre = (row + 0.5) * height / y.shape[2], (column + 0.5) * width / y.shape[3]
            found.append(ReceptiveField(gradient[0].abs().sum(0).double().cpu(), centre))
    return found


def side_holding(field: ReceptiveField, shares: Sequence[float] = (0.5, 0.9, 0.99)) -> tuple[int, ...]:
    """Return how large a square around a cell's middle holds given shares of its receptive field.

    Args:
        field: The field, not negative.
        shares: In (0, 1]. Defaults to (0.5, 0.9, 0.99).

    Returns:
        Sides in pixels, rounded up; what reaches beyond the picture counts as part of the square. 0 if the field is
        empty.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.receptive import ReceptiveField, side_holding
        >>> side_holding(ReceptiveField(torch.ones(9, 9), (4.5, 4.5)), shares=(0.1, 1.0))
        (3, 9)
    """
    values, (down, across) = field
    height, width = values.shape
    if not values.sum() > 0:
        return tuple(0 for _ in shares)
    rows = (torch.arange(height) + 0.5 - down).abs()[:, None] + 0.5  # to a pixel's far side
    columns = (torch.arange(width) + 0.5 - across).abs() + 0.5
    reach = torch.maximum(rows.expand(height, width), columns.expand(height, width)).flatten()
    order = reach.argsort()
    held = values.flatten()[order].cumsum(0) / values.sum()
    places = [min(int((held < share - 1e-12).sum()), held.numel() - 1) for share in shares]
    return tuple(ceil(2 * float(reach[order[place]])) for place in places)
