"""The effective receptive field: which pixels an output depends on, and how much.

Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural Networks, NeurIPS 2016,
https://arxiv.org/abs/1701.04128: the magnitude of the gradient of an output's central cell with respect to the picture.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def receptive_fields(model: nn.Module, pictures: Tensor, at: tuple[float, float] = (0.5, 0.5)) -> list[Tensor]:
    """Return the effective receptive field of each map that a backbone returns.

    The model runs in evaluation mode. Of each map, the channels of one cell are summed; the gradient's magnitudes are
    summed over the picture's channels and averaged over pictures.

    Args:
        model: A backbone: it returns a map (B, C, h, w), or several.
        pictures: (N, channels, H, W), run one by one.
        at: The cell, as shares of the map's height and width. Defaults to (0.5, 0.5), the middle.

    Returns:
        float64 (H, W) for each map, on the CPU.

    Raises:
        ValueError: If the model returns anything but maps, or ``at`` is outside of [0, 1].

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.receptive import receptive_fields
        >>> (field,) = receptive_fields(torch.nn.Conv2d(3, 4, 3, padding=1), torch.randn(2, 3, 7, 9))
        >>> field.shape, (field > 0).nonzero().amin(0).tolist(), (field > 0).nonzero().amax(0).tolist()
        (torch.Size([7, 9]), [2, 3], [4, 5])
    """
    if not all(0 <= share <= 1 for share in at):
        raise ValueError(f'at={at} must be shares of the height and the width, each in [0, 1]')
    training, fields = model.training, None
    model.eval()
    try:
        for picture in pictures:
            seen = _gradients(model, picture[None], at)
            fields = seen if fields is None else [a + b for a, b in zip(fields, seen, strict=True)]
    finally:
        model.train(training)
    if fields is None:
        raise ValueError('pictures is empty; give at least one')
    return [field / len(pictures) for field in fields]


def _gradients(model: nn.Module, picture: Tensor, at: tuple[float, float]) -> list[Tensor]:
    picture = picture.detach().requires_grad_()
    with torch.enable_grad():
        outputs = model(picture)
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if any(not isinstance(y, Tensor) or y.ndim != 4 for y in outputs):
            raise ValueError(
                f'{type(model).__name__} must return maps (B, C, h, w), got shapes '
                f"{[tuple(getattr(y, 'shape', ())) for y in outputs]}; for Vim's class token set out_type='featmap'"
            )
        found = []
        for y in outputs:
            row, column = (min(int(share * side), side - 1) for share, side in zip(at, y.shape[2:], strict=True))
            (gradient,) = torch.autograd.grad(y[0, :, row, column].sum(), picture, retain_graph=True)
            found.append(gradient[0].abs().sum(0).double().cpu())
    return found


def side_holding(field: Tensor, shares: Sequence[float] = (0.5, 0.9, 0.99), at: tuple[float, float] = (0.5, 0.5)):
    """Return how large a square around a cell holds given shares of its receptive field.

    Args:
        field: (H, W), not negative.
        shares: In (0, 1]. Defaults to (0.5, 0.9, 0.99).
        at: The cell, as in :func:`receptive_fields`. Defaults to (0.5, 0.5).

    Returns:
        Sides in pixels, a tuple; what reaches beyond the picture counts as part of the square. 0 if the field is empty.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.receptive import side_holding
        >>> side_holding(torch.ones(9, 9), shares=(0.1, 1.0))
        (3, 9)
    """
    height, width = field.shape
    if not field.sum() > 0:
        return tuple(0 for _ in shares)
    rows = (torch.arange(height) + 0.5 - at[0] * height).abs()[:, None]
    columns = (torch.arange(width) + 0.5 - at[1] * width).abs()
    distance = torch.maximum(rows.expand(height, width), columns.expand(height, width)).flatten()
    order = distance.argsort()
    held = field.flatten()[order].cumsum(0) / field.sum()
    places = [min(int((held < share - 1e-12).sum()), held.numel() - 1) for share in shares]
    return tuple(round(2 * float(distance[order[place]]) + 1) for place in places)
