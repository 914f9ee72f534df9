"""Initial values of the parameters that every selective state-space mixer has."""

import math

import torch
from torch import Tensor, nn


def mark_no_weight_decay(parameter: nn.Parameter) -> nn.Parameter:
    """Mark a parameter that weight decay must not touch (the layer-decay constructor reads the mark).

    Examples:
        >>> mark_no_weight_decay(nn.Parameter(torch.ones(2)))._no_weight_decay
        True
    """
    parameter._no_weight_decay = True  # type: ignore[attr-defined]
    return parameter


def init_a_log(channels: int, d_state: int) -> nn.Parameter:
    """Return ``log(n)`` for n = 1..d_state on every channel: A = -exp(A_log) is S4D-Real.

    https://arxiv.org/abs/2206.11893, Sec. 4.1.

    Args:
        channels: Inner channels of the mixer.
        d_state: States of a channel.

    Returns:
        float32 (channels, d_state), marked for no weight decay.

    Examples:
        >>> init_a_log(2, 3).exp().round().tolist()
        [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]
    """
    rates = torch.arange(1, d_state + 1, dtype=torch.float32).log()
    return mark_no_weight_decay(nn.Parameter(rates.repeat(channels, 1)))  # (d_state,) -> (channels, d_state)


def init_skip(channels: int) -> nn.Parameter:
    """Return ones (channels,), float32: the weight D of the input in the output, marked for no weight decay.

    Examples:
        >>> init_skip(3).tolist()
        [1.0, 1.0, 1.0]
    """
    return mark_no_weight_decay(nn.Parameter(torch.ones(channels)))


def init_dt_bias(channels: int, dt_min: float = 1e-3, dt_max: float = 0.1, dt_floor: float = 1e-4) -> Tensor:
    """Return a bias whose softplus is log-uniform in [dt_min, dt_max].

    https://arxiv.org/abs/2312.00752, Sec. 3.6.

    Args:
        channels: Inner channels of the mixer.
        dt_min: Smallest step. Defaults to 1e-3.
        dt_max: Largest step. Defaults to 0.1.
        dt_floor: Smaller steps are raised to this. Defaults to 1e-4.

    Returns:
        float32 (channels,).

    Examples:
        >>> step = nn.functional.softplus(init_dt_bias(100))
        >>> bool((step > 0.99e-3).all() and (step < 0.101).all())
        True
    """
    dt = torch.exp(torch.rand(channels) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min))
    dt = dt.clamp_min(dt_floor)
    return dt + torch.log(-torch.expm1(-dt))


def init_dt_proj(dt_rank: int, channels: int) -> nn.Linear:
    """Return the layer from the low-rank step to delta: weight uniform in +-dt_rank^-0.5, bias by ``init_dt_bias``.

    Examples:
        >>> init_dt_proj(2, 8)
        Linear(in_features=2, out_features=8, bias=True)
    """
    layer = nn.Linear(dt_rank, channels, bias=True)
    nn.init.uniform_(layer.weight, -(dt_rank**-0.5), dt_rank**-0.5)
    with torch.no_grad():
        layer.bias.copy_(init_dt_bias(channels))
    return layer


def resolve_dt_rank(dt_rank: int | str, embed_dims: int) -> int:
    """Return ``dt_rank`` itself, or ``ceil(embed_dims / 16)`` for 'auto'.

    Raises:
        ValueError: For anything else.

    Examples:
        >>> resolve_dt_rank('auto', 192), resolve_dt_rank(5, 192)
        (12, 5)
    """
    if dt_rank == 'auto':
        return math.ceil(embed_dims / 16)
    if isinstance(dt_rank, int) and dt_rank > 0:
        return dt_rank
    raise ValueError(f"dt_rank={dt_rank!r} must be a positive int or 'auto' (ceil(embed_dims / 16))")
