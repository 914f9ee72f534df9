"""Initial values of the parameters that every selective state-space mixer has."""

import math

import torch
from torch import Tensor, nn


def keep_undecayed(parameter: nn.Parameter) -> nn.Parameter:
    """Mark a parameter that weight decay must not touch (read by the layer-decay constructor)."""
    parameter._no_weight_decay = True  # type: ignore[attr-defined]
    return parameter


def init_a_log(channels: int, d_state: int) -> nn.Parameter:
    """``log(n)`` for n = 1..d_state on every channel: A = -exp(A_log) is S4D-Real.

    https://arxiv.org/abs/2206.11893, Sec. 4.1.

    Returns:
        float32 (channels, d_state), marked for no weight decay.
    """
    rates = torch.arange(1, d_state + 1, dtype=torch.float32).log()
    return keep_undecayed(nn.Parameter(rates.repeat(channels, 1)))


def init_skip(channels: int) -> nn.Parameter:
    """Ones (channels,), float32: the weight D of the input in the output, marked for no weight decay."""
    return keep_undecayed(nn.Parameter(torch.ones(channels)))


def init_dt_bias(channels: int, dt_min: float = 1e-3, dt_max: float = 0.1, dt_floor: float = 1e-4) -> Tensor:
    """Bias (channels,) whose softplus is log-uniform in [dt_min, dt_max].

    https://arxiv.org/abs/2312.00752, Sec. 3.6.
    """
    dt = torch.exp(torch.rand(channels) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min))
    dt = dt.clamp_min(dt_floor)
    return dt + torch.log(-torch.expm1(-dt))


def init_dt_proj(dt_rank: int, channels: int) -> nn.Linear:
    """The layer from the low-rank step to delta: weight uniform in +-dt_rank^-0.5, bias by `init_dt_bias`."""
    layer = nn.Linear(dt_rank, channels, bias=True)
    nn.init.uniform_(layer.weight, -(dt_rank**-0.5), dt_rank**-0.5)
    with torch.no_grad():
        layer.bias.copy_(init_dt_bias(channels))
    return layer


def resolve_dt_rank(dt_rank: int | str, embed_dims: int) -> int:
    """`dt_rank` itself, or ``ceil(embed_dims / 16)`` for 'auto'.

    Raises:
        ValueError: For anything else.
    """
    if dt_rank == 'auto':
        return math.ceil(embed_dims / 16)
    if isinstance(dt_rank, int) and dt_rank > 0:
        return dt_rank
    raise ValueError(f"dt_rank={dt_rank!r} must be a positive int or 'auto' (ceil(embed_dims / 16))")
