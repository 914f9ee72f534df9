"""What every backbone does alike with its arguments."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


def resolve_arch(arch: str | dict, zoo: Mapping[str, dict], defaults: Mapping[str, Any]) -> dict:
    """Settings of an architecture given by name or as a dict.

    Args:
        arch: A key of `zoo` (case does not matter), or a dict.
        zoo: Named architectures; their common keys beyond `defaults` are required of a dict.
        defaults: Optional keys and their values.

    Returns:
        A new dict with every key.

    Raises:
        ValueError: For an unknown name, a missing or an unknown key.
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
    """Output indices as a tuple of non-negative ints, ascending and without repeats.

    Raises:
        ValueError: If one lies outside -levels..levels-1, or the order is not ascending.
    """
    given = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    if not given or any(not isinstance(i, int) or not -levels <= i < levels for i in given):
        raise ValueError(f'out_indices={out_indices!r} must be ints in {-levels}..{levels - 1}')
    indices = tuple(i % levels for i in given)
    if list(indices) != sorted(set(indices)):
        raise ValueError(f'out_indices={out_indices!r} must ascend and not repeat')
    return indices


def block_drop_path_rates(drop_path_rate: float, depth: int) -> list[float]:
    """Stochastic-depth rates of `depth` blocks, rising linearly from 0 to `drop_path_rate` (https://arxiv.org/abs/1603.09382).

    Raises:
        ValueError: If the rate is outside [0, 1).
    """
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f'drop_path_rate={drop_path_rate} must lie in [0, 1)')
    # On the CPU whatever the default device, so that a model can be built on 'meta'.
    return torch.linspace(0, drop_path_rate, depth, dtype=torch.float64, device='cpu').tolist()


def frozen(*parts: nn.Module | nn.Parameter | None) -> None:
    """Exclude modules and parameters from training: no gradient, modules in eval mode."""
    for part in parts:
        if isinstance(part, nn.Module):
            part.eval()
            part.requires_grad_(False)
        elif part is not None:
            part.requires_grad = False
