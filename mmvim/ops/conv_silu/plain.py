"""The short convolution with SiLU in plain PyTorch, on any device.

State-space mixers filter each channel over a few neighbouring tokens before the scan: causally in Mamba (Gu and Dao,
https://arxiv.org/abs/2312.00752, Fig. 3), centred in MambaVision (Hatamizadeh and Kautz,
https://arxiv.org/abs/2407.08083, Eq. 4). Tokens stay in rows (B, L, D), the layout of the projections around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops.conv_silu.operators import Implementation
from mmvim.ops.define import without_autocast


def _correlate(x: Tensor, weight: Tensor, left: int) -> Tensor:
    """Correlate the channels of tokens (B, L, D) with filters (D, I) along the tokens, zeros outside; (B, L, D)."""
    taps, length = weight.shape[1], x.shape[1]
    pad = max(left, taps - 1 - left)
    rows = x.contiguous().transpose(1, 2).unsqueeze(2)  # (B, D, 1, L), channels last in memory
    y = F.conv2d(rows, weight[:, None, None], padding=(0, pad), groups=x.shape[2])  # (B, D, 1, L + 2 pad - I + 1)
    return y[..., pad - left : pad - left + length].squeeze(2).transpose(1, 2)


def _before_silu(x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int], k: int) -> Tensor:
    y = _correlate(x, weight[k].to(x.dtype), left[k])
    return y if bias is None else y + bias[k].to(x.dtype)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int]) -> Tensor:
    """Run the forward pass; arguments and result as of :func:`mmvim.ops.conv_silu.conv1d_silu`.

    Sums are float32, as the other backends' are: a float16 sum that overflows to minus infinity has NaN for its SiLU.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    with without_autocast(x):
        filtered = [F.silu(_before_silu(wide, weight, bias, left, k)) for k in range(len(left))]
        return torch.stack([y.to(x.dtype) for y in filtered], dim=1)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the backward pass: gradients of x, weight and bias (empty where there is none).

    The convolution is computed again rather than kept. PyTorch's own CPU backward of a depthwise convolution takes many
    times its forward's time; here the gradients of x and of the weight cost about one forward pass each.
    """
    taps, length, dtype = weight.shape[-1], x.shape[1], x.dtype
    exact = torch.promote_types(weight.dtype, torch.float32)
    x = x.to(torch.promote_types(dtype, torch.float32))
    grad_x = x.new_zeros(x.shape)
    grad_weight = weight.new_zeros(weight.shape, dtype=exact)
    grad_bias = weight.new_empty(0 if bias is None else bias.shape, dtype=exact)
    with without_autocast(x):
        for k, past in enumerate(left):
            y = _before_silu(x, weight, bias, left, k)
            gate = torch.sigmoid(y)
            dy = grad[:, k] * (gate * (1 + y * (1 - gate)))  # (B, L, D)
            grad_x += _correlate(dy, weight[k].to(x.dtype).flip(-1), taps - 1 - past)
            if bias is not None:
                grad_bias[k] = dy.sum((0, 1), dtype=exact)
            for i in range(taps):
                shift = i - past  # output t reads input t + shift
                start, stop = max(0, -shift), min(length, length - shift)
                if start < stop:
                    products = dy[:, start:stop] * x[:, start + shift : stop + shift]
                    grad_weight[k, :, i] = products.sum((0, 1), dtype=exact)
    return grad_x.to(dtype), grad_weight.to(weight.dtype), grad_bias if bias is None else grad_bias.to(bias.dtype)


IMPLEMENTATION = Implementation(forward, backward)
