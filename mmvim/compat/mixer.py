"""``mamba_ssm.modules.mamba_simple.Mamba``: the Mamba mixer, with the arguments and parameters of Vim's fork.

Gu and Dao, https://arxiv.org/abs/2312.00752, Fig. 3; both directions as in Zhu et al., https://arxiv.org/abs/2401.09417,
Alg. 1. It stands beside ``mmvim.VimMixer``, which has Vim's second form alone, so that this package needs no registry
and therefore no package of OpenMMLab.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mmvim.compat.inner import bimamba_inner_fn, mamba_inner_fn, mamba_inner_fn_no_out_proj

TYPES = ('none', 'v1', 'v2')


class Mamba(nn.Module):
    """Mix tokens by a selective scan, in one direction or in both.

    Parameters have the names and shapes of the original's, so its files load.

    Args:
        d_model: Channels of a token, E.
        d_state: States of a channel. Defaults to 16.
        d_conv: Taps of the causal convolution. Defaults to 4.
        expand: Inner channels over ``d_model``. Defaults to 2.
        dt_rank: Rank of the projection to delta. Defaults to 'auto', ``ceil(d_model / 16)``.
        dt_min: Smallest initial step. Defaults to 0.001.
        dt_max: Largest initial step. Defaults to 0.1.
        dt_init: Initial projection to delta, 'random' or 'constant'. Defaults to 'random'.
        dt_scale: Its scale. Defaults to 1.0.
        dt_init_floor: Smaller initial steps are raised to this. Defaults to 1e-4.
        conv_bias: Give the convolution a bias. Defaults to True.
        bias: Give the first and the last projection a bias. Defaults to False.
        use_fast_path: Changes nothing here: there is one path. Defaults to True.
        layer_idx: Kept for who reads it. Defaults to None.
        device: Where the parameters are. Defaults to None, PyTorch's default.
        dtype: Of the parameters but A_log and D, which are float32. Defaults to None, PyTorch's default.
        bimamba_type: 'none', 'v1' (shared projections, added) or 'v2' (projections of its own for each direction).
            Defaults to 'none'.
        if_divide_out: Halve the sum of v2. Defaults to False.
        if_devide_out: The same in older versions of the fork. Defaults to False.
        init_layer_scale: Initial factor of the output, a parameter gamma (d_model,). Defaults to None, no factor.

    Raises:
        ValueError: If ``bimamba_type`` or ``dt_init`` is another.

    Examples:
        >>> import torch
        >>> Mamba(8, d_state=4, bimamba_type='v2', if_divide_out=True)(torch.zeros(2, 6, 8)).shape
        torch.Size([2, 6, 8])
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = 'auto',
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = 'random',
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        bimamba_type: str | None = 'none',
        if_divide_out: bool = False,
        if_devide_out: bool = False,
        init_layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        bimamba_type = bimamba_type or 'none'
        if bimamba_type not in TYPES:
            raise ValueError(f'bimamba_type must be one of {TYPES}, got {bimamba_type!r}')
        if dt_init not in ('random', 'constant'):
            raise ValueError(f"dt_init must be 'random' or 'constant', got {dt_init!r}")
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if isinstance(dt_rank, str) else dt_rank
        self.use_fast_path, self.layer_idx, self.bimamba_type = use_fast_path, layer_idx, bimamba_type
        self.if_divide_out = if_divide_out or if_devide_out
        made: dict[str, Any] = {'device': device, 'dtype': dtype}

        self.gamma = None if init_layer_scale is None else nn.Parameter(torch.full((d_model,), init_layer_scale))
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **made)
        for suffix in ('', '_b') if bimamba_type == 'v2' else ('',):
            filters = nn.Conv1d(
                self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1, bias=conv_bias, **made
            )
            setattr(self, f'conv1d{suffix}', filters)
            setattr(self, f'x_proj{suffix}', nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **made))
            dt_proj = nn.Linear(self.dt_rank, self.d_inner, **made)
            self._init_steps(dt_proj, dt_min, dt_max, dt_init, dt_scale, dt_init_floor)
            setattr(self, f'dt_proj{suffix}', dt_proj)
            setattr(self, f'D{suffix}', _kept(torch.ones(self.d_inner, device=device)))
        rates = torch.arange(1, d_state + 1, dtype=torch.float32, device=device).log()
        self.A_log = _kept(rates.repeat(self.d_inner, 1))  # (D, N)
        if bimamba_type != 'none':
            self.A_b_log = _kept(rates.repeat(self.d_inner, 1))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **made)

    @staticmethod
    @torch.no_grad()
    def _init_steps(layer: nn.Linear, low: float, high: float, kind: str, scale: float, floor: float) -> None:
        """Draw a projection, and a bias whose softplus is log-uniform in [low, high] (Sec. 3.6)."""
        bound = layer.in_features**-0.5 * scale
        if kind == 'random':
            nn.init.uniform_(layer.weight, -bound, bound)
        else:
            nn.init.constant_(layer.weight, bound)
        step = torch.empty_like(layer.bias).uniform_(math.log(low), math.log(high)).exp().clamp_min(floor)
        layer.bias.copy_(step + torch.log(-torch.expm1(-step)))
        layer.bias._no_reinit = True  # type: ignore[attr-defined]  # Vim's initialisation reads it

    def forward(self, hidden_states: Tensor, inference_params: None = None) -> Tensor:
        """Mix tokens.

        Args:
            hidden_states: (B, L, E).
            inference_params: Not served. Defaults to None.

        Returns:
            (B, L, E).

        Raises:
            NotImplementedError: If ``inference_params`` is given: generation token by token is not served.
        """
        if inference_params is not None:
            raise NotImplementedError('mmvim.compat serves no generation: pass inference_params=None')
        xz = self.in_proj(hidden_states).mT  # (B, L, 2D) -> (B, 2D, L)
        if self.bimamba_type == 'v2':
            forward = mamba_inner_fn_no_out_proj(xz, **self._weights(''))  # (B, D, L)
            backward = mamba_inner_fn_no_out_proj(xz.flip(-1), **self._weights('_b')).flip(-1)
            y = forward + backward
            y = self.out_proj((y / 2 if self.if_divide_out else y).mT)
        else:
            last = {'out_proj_weight': self.out_proj.weight, 'out_proj_bias': self.out_proj.bias}
            if self.bimamba_type == 'v1':
                y = bimamba_inner_fn(xz, A_b=_decay(self.A_b_log), **last, **self._weights(''))
            else:
                y = mamba_inner_fn(xz, **last, **self._weights(''))
        return y if self.gamma is None else y * self.gamma

    def _weights(self, suffix: str) -> dict[str, Any]:
        """Return the arguments that a direction's own parameters give, '' or '_b'."""
        conv1d, x_proj, dt_proj = (getattr(self, f'{name}{suffix}') for name in ('conv1d', 'x_proj', 'dt_proj'))
        return {
            'conv1d_weight': conv1d.weight,
            'conv1d_bias': conv1d.bias,
            'x_proj_weight': x_proj.weight,
            'delta_proj_weight': dt_proj.weight,
            'A': _decay(self.A_b_log if suffix else self.A_log),
            'D': getattr(self, f'D{suffix}').float(),
            'delta_bias': dt_proj.bias.float(),
        }


def _decay(log: Tensor) -> Tensor:
    return -torch.exp(log.float())


def _kept(value: Tensor) -> nn.Parameter:
    """Return a parameter that optimizers which look for the original's mark do not decay."""
    parameter = nn.Parameter(value)
    parameter._no_weight_decay = True  # type: ignore[attr-defined]
    return parameter
