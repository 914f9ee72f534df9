"""What all backbones do with their arguments."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mmvim.models.layers.pos_embed import read_grid, resize_grid, square_grid


def resolve_arch(arch: str | dict, zoo: Mapping[str, dict], defaults: Mapping[str, Any]) -> dict:
    """Return the settings of an architecture given by name or as a dict.

    Args:
        arch: A key of ``zoo`` (case does not matter), or a dict.
        zoo: Named architectures; the keys that all of them have, less those of ``defaults``, are required of a dict.
        defaults: Optional keys and their values.

    Returns:
        A new dict with every key.

    Raises:
        ValueError: For an unknown name, a missing or an unknown key.

    Examples:
        >>> resolve_arch('Tiny', {'tiny': {'depth': 24}}, {'d_state': 16})
        {'d_state': 16, 'depth': 24}
        >>> resolve_arch({'depth': 2, 'd_state': 8}, {'tiny': {'depth': 24}}, {'d_state': 16})
        {'d_state': 8, 'depth': 2}
    """
    if isinstance(arch, str):
        if arch.lower() not in zoo:
            raise ValueError(f'arch={arch!r} is not one of {sorted(zoo)}; a dict of settings is accepted too')
        given = zoo[arch.lower()]
    else:
        given = dict(arch)
    required = set.intersection(*(set(settings) for settings in zoo.values())) - set(defaults)
    missing, unknown = required - set(given), set(given) - required - set(defaults)
    if missing or unknown:
        raise ValueError(
            f'arch as a dict needs the keys {sorted(required)} and may have {sorted(defaults)}; '
            f'missing {sorted(missing)}, unknown {sorted(unknown)}'
        )
    return {**defaults, **given}


def normalize_out_indices(out_indices: int | Sequence[int], levels: int) -> tuple[int, ...]:
    """Return output indices as a tuple of non-negative ints, ascending and without repeats.

    Args:
        out_indices: One index or several, negative from the end.
        levels: Number of possible outputs.

    Returns:
        The indices.

    Raises:
        ValueError: If one lies outside -levels..levels-1, or the order is not ascending.

    Examples:
        >>> normalize_out_indices(-1, 24), normalize_out_indices([0, -2], 4)
        ((23,), (0, 2))
    """
    given = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    if not given or any(not isinstance(i, int) or not -levels <= i < levels for i in given):
        raise ValueError(f'out_indices={out_indices!r} must be ints in {-levels}..{levels - 1}')
    indices = tuple(i % levels for i in given)
    if list(indices) != sorted(set(indices)):
        raise ValueError(f'out_indices={out_indices!r} must ascend and not repeat')
    return indices


def block_drop_path_rates(drop_path_rate: float, depth: int) -> list[float]:
    """Return the stochastic-depth rates of ``depth`` blocks, rising linearly from 0 to ``drop_path_rate``.

    https://arxiv.org/abs/1603.09382.

    Raises:
        ValueError: If the rate is outside [0, 1).

    Examples:
        >>> block_drop_path_rates(0.5, 3)
        [0.0, 0.25, 0.5]
    """
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f'drop_path_rate={drop_path_rate} must lie in [0, 1)')
    # On the CPU whatever the default device, so that a model can be built on 'meta'.
    return torch.linspace(0, drop_path_rate, depth, dtype=torch.float64, device='cpu').tolist()


def fit_stored_positions(state_dict: dict, key: str, grid: tuple[int, int], channels: int) -> None:
    """Resize the positions among weights to a model's grid, in place, and record that grid as ``<key>_grid``.

    Weights that do not say their grid are a publisher's, whose grids are square.

    Args:
        state_dict: The weights, before they are loaded.
        key: Name of the positions (1, rows * columns, channels).
        grid: Rows and columns of the model's.
        channels: The model's; positions of another width are left for ``load_state_dict`` to report.

    Raises:
        ValueError: If the grid of the stored positions is not known.

    Examples:
        >>> weights = {'pos_embed': torch.ones(1, 16, 8)}
        >>> fit_stored_positions(weights, 'pos_embed', (4, 6), 8)
        >>> weights['pos_embed'].shape, weights['pos_embed_grid'].tolist()
        (torch.Size([1, 24, 8]), [4, 6])
    """
    record = state_dict.pop(key + '_grid', None)
    state_dict[key + '_grid'] = torch.tensor(grid, device='cpu')
    stored = state_dict.get(key)
    if stored is None or stored.ndim != 3 or stored.shape[2] != channels:
        return  # missing, or another width: load_state_dict reports it
    cells = stored.shape[1]
    theirs = square_grid(cells) if record is None else read_grid(record, cells)
    if theirs is None:
        raise ValueError(
            f'{key} of the checkpoint has {cells} positions, '
            f'{"and does not say of which grid" if record is None else "which do not fill the grid it records"}; '
            f'this model has {grid[0]} x {grid[1]}. Load it by '
            "init_cfg=dict(type='Pretrained', checkpoint=..., grid=(rows, columns))"
        )
    state_dict[key] = resize_grid(stored, theirs, grid)


def freeze(*parts: nn.Module | nn.Parameter | None) -> None:
    """Exclude modules and parameters from training: no gradient, modules in eval mode; None is passed over.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> freeze(layer, None)
        >>> layer.training, layer.weight.requires_grad
        (False, False)
    """
    for part in parts:
        if isinstance(part, nn.Module):
            part.eval()
            part.requires_grad_(False)
        elif part is not None:
            part.requires_grad = False


def picture_channels(model: nn.Module) -> int:
    """Return how many channels a model's pictures have, as its first convolution says; 3 where there is none.

    Args:
        model: A backbone, or a model with one under the name ``backbone``.

    Examples:
        >>> picture_channels(nn.Sequential(nn.Conv2d(5, 8, 3), nn.Conv2d(8, 8, 3)))
        5
    """
    backbone = getattr(model, 'backbone', None)
    parts = (backbone if isinstance(backbone, nn.Module) else model).modules()
    return next((part.in_channels for part in parts if isinstance(part, nn.Conv2d)), 3)
