"""The short convolution and SiLU before the scans, for all filters of one input at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops.backends import resolve
from mmvim.ops.conv_silu.plain import depthwise_conv1d
from mmvim.ops.conv_silu.triton import takes
from mmvim.ops.triton_host.device import on_triton


def conv1d_silu(
    x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int], backend: str | None = None
) -> Tensor:
    """K depthwise convolutions along the tokens, each followed by SiLU.

    ``y[b, k, t, d] = silu(bias[k, d] + sum_i weight[k, d, i] * x[b, t + i - left[k], d])``, x zero outside. In C++
    where the scan's backend is 'native', in Triton where it is 'triton' (neither in float64), else by PyTorch's
    operators.

    Args:
        x: Tokens (B, L, D), any floating dtype.
        weight: Filters (K, D, I); I is the number of taps.
        bias: (K, D) or None.
        left: Of each filter, the number of past tokens that it sees: I - 1 is causal, 0 anti-causal, (I - 1) // 2
            centred.
        backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.

    Returns:
        (B, K, L, D), of the dtype that `x` and `weight` promote to (autocast applies as it does to a convolution).

    Raises:
        ValueError: If the shapes do not fit, or a filter looks beyond its taps.
    """
    if x.ndim != 3 or weight.ndim != 3 or weight.shape[1] != x.shape[-1] or len(left) != weight.shape[0]:
        raise ValueError(
            'x must be (B, L, D), weight (K, D, taps) and left K numbers; got '
            f'{tuple(x.shape)}, {tuple(weight.shape)} and left={list(left)}'
        )
    taps = weight.shape[-1]
    if not all(0 <= n < taps for n in left):
        raise ValueError(f'left={list(left)} must lie in 0..{taps - 1} for filters of {taps} taps')
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    else:
        dtype = torch.promote_types(x.dtype, weight.dtype)
    scan = resolve(backend, x.device.type)
    if scan == 'native' and dtype != torch.float64 and x.numel():
        return torch.ops.mmvim_native.conv_silu_forward(x.to(dtype), weight, bias, list(left))
    if scan == 'triton' and takes(x, weight, dtype) and on_triton(x):
        return torch.ops.mmvim.conv1d_silu_fwd(x.to(dtype), weight, bias, list(left))
    outputs = [
        F.silu(depthwise_conv1d(x, weight[k, :, None], None if bias is None else bias[k], left=n))
        for k, n in enumerate(left)
    ]
    return torch.stack(outputs, dim=1)
