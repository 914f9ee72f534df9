"""The short convolution and SiLU before the scans, for all filters of one input at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmvim.ops.backends import REFERENCE
from mmvim.ops.conv_silu.operators import BACKENDS, conv_silu_fwd
from mmvim.ops.conv_silu.reference import conv_silu_reference
from mmvim.ops.define import are_plain, autocast_dtype, is_watched


def conv1d_silu(
    x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int], backend: str | None = None
) -> Tensor:
    """Run K depthwise convolutions along the tokens, each followed by SiLU.

    ``y[b, k, t, d] = silu(bias[k, d] + sum_i weight[k, d, i] * x[b, t + i - left[k], d])``, x zero outside (Gu and Dao,
    https://arxiv.org/abs/2312.00752, Fig. 3). A second derivative is an error; the backend 'reference' has it.

    Args:
        x: Tokens (B, L, D), any floating dtype.
        weight: Filters (K, D, I); I is the number of taps.
        bias: (K, D) or None.
        left: Of each filter, the number of past tokens that it sees: I - 1 is causal, 0 anti-causal, (I - 1) // 2
            centred.
        backend: As of :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.

    Returns:
        (B, K, L, D), of the dtype that ``x`` and ``weight`` promote to (autocast applies as it does to a convolution).

    Raises:
        ValueError: If the shapes do not fit, a filter looks beyond its taps, or the backend is unknown.

    Examples:
        >>> import torch
        >>> from mmvim.ops.conv_silu import conv1d_silu
        >>> x, weight = torch.ones(1, 3, 2), torch.ones(1, 2, 2)
        >>> conv1d_silu(x, weight, None, left=[1])[0, 0, :, 0]  # silu of 1, 2, 2
        tensor([0.7311, 1.7616, 1.7616])
    """
    if x.ndim != 3 or weight.ndim != 3 or weight.shape[1] != x.shape[-1] or len(left) != weight.shape[0]:
        raise ValueError(
            'x must be (B, L, D), weight (K, D, taps) and left K numbers; got '
            f'{tuple(x.shape)}, {tuple(weight.shape)} and left={list(left)}'
        )
    taps = weight.shape[-1]
    if not all(0 <= n < taps for n in left):
        raise ValueError(f'left={list(left)} must lie in 0..{taps - 1} for filters of {taps} taps')
    dtype = autocast_dtype(x) or torch.promote_types(x.dtype, weight.dtype)
    x, left = x.to(dtype), list(left)
    if BACKENDS.select(backend, x.device.type) == REFERENCE:
        real = torch.promote_types(dtype, torch.float32)
        return conv_silu_reference(x.to(real), weight.to(real), None if bias is None else bias.to(real), left).to(dtype)
    name = BACKENDS.in_graph(backend)
    needs_gradient = x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    if torch.is_grad_enabled() and needs_gradient:
        lay_out = BACKENDS[BACKENDS.select(backend, x.device.type, x, weight)].implementation.lay_out
        return conv_silu_fwd(lay_out(x) if lay_out else x, weight, bias, left, name)
    if x.is_cpu and x.numel() > 0 and not is_watched() and are_plain(x, weight, bias):
        with torch._C._AutoDispatchBelowAutograd():  # no operator of PyTorch's for few tokens, see selective_scan
            return BACKENDS.serving(name, 'cpu', x, weight).forward(x, weight, bias, left)
    if torch.compiler.is_compiling():
        return conv_silu_fwd(x, weight, bias, left, name)
    with torch._C._AutoDispatchBelowAutograd():  # nothing to differentiate: half the time of a call
        return conv_silu_fwd(x, weight, bias, left, name)
