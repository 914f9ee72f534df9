"""Feature maps as pictures: their first principal components."""

from typing import NamedTuple

import torch
from torch import Tensor


class Components(NamedTuple):
    """The principal components of a feature map.

    Attributes:
        maps: Components, each stretched to 0..1, float64 (n, h, w).
        shares: Their shares of the variance over cells, (n,).

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.features import principal_components
        >>> principal_components(torch.randn(16, 5, 7)).maps.shape
        torch.Size([3, 5, 7])
    """

    maps: Tensor
    shares: Tensor


def principal_components(features: Tensor, number: int = 3) -> Components:
    """Return the principal components of a map's cells, over its channels.

    A component's sign, which is arbitrary, is chosen so that the channel with the largest weight has a positive one.
    A map of fewer channels or cells than ``number`` has zeros in place of those that it lacks.

    Args:
        features: (C, h, w).
        number: Of components. Defaults to 3, for the three colours of a picture.

    Raises:
        ValueError: If ``features`` is no map, or holds what is not finite.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.features import principal_components
        >>> ramp = torch.arange(12.0).reshape(1, 3, 4) * torch.tensor([1.0, -2.0]).reshape(2, 1, 1)
        >>> found = principal_components(ramp)
        >>> [round(share, 3) for share in found.shares.tolist()], found.maps[0, 0].tolist()[0] > 0.99
        ([1.0, 0.0, 0.0], True)
    """
    if features.ndim != 3:
        raise ValueError(f'features must be a map (C, h, w), got shape {tuple(features.shape)}')
    if not features.isfinite().all():
        raise ValueError('features holds values that are not finite; the model or its weights are broken')
    height, width = features.shape[1:]
    cells = features.detach().double().cpu().flatten(1).T  # (h * w, C)
    cells = cells - cells.mean(0)
    _, strengths, directions = torch.linalg.svd(cells, full_matrices=False)
    directions = directions[:number]
    largest = directions.abs().argmax(1, keepdim=True)
    directions = directions * directions.gather(1, largest).sign()
    projected = (cells @ directions.T).T  # (n, h * w)
    low, high = projected.amin(1, keepdim=True), projected.amax(1, keepdim=True)
    flat = high - low <= 1e-9 * cells.abs().amax()
    maps = torch.where(flat, 0.0, (projected - low) / torch.where(flat, 1.0, high - low))
    variances = strengths**2
    shares = variances[:number] / variances.sum().clamp(min=1e-300)
    missing = number - len(maps)
    maps = torch.cat([maps, maps.new_zeros(missing, height * width)])
    return Components(maps.reshape(number, height, width), torch.cat([shares, shares.new_zeros(missing)]))
