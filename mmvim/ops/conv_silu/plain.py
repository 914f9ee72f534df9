"""Short depthwise convolution along the token axis, forward, backward in scan direction, or centred.

State-space mixers filter each channel over a few neighbouring tokens before the scan: causally in Mamba (Gu and Dao,
https://arxiv.org/abs/2312.00752, Fig. 3), centred in MambaVision (Hatamizadeh and Kautz,
https://arxiv.org/abs/2407.08083, Eq. 4). Tokens stay in rows (B, L, D), the layout of the projections around it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class _DepthwiseConv1d(torch.autograd.Function):
    """Convolve in channels-last layout, and get the weight's gradient from one shifted product a tap.

    PyTorch's own CPU backward of a depthwise convolution runs many times slower than its forward; both gradients here
    cost about one forward each.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, left: int, right: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = left, right
        return _correlate(x, weight, left, right)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        left, right = ctx.padding
        taps, length = weight.shape[-1], x.shape[1]
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _correlate(grad, weight.flip(-1), taps - 1 - left, taps - 1 - right).to(x.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = weight.new_zeros(weight.shape, dtype=torch.promote_types(weight.dtype, torch.float32))
            for tap in range(taps):
                shift = tap - left  # output t reads input t + shift
                start, stop = max(0, -shift), min(length, length - shift)
                if start < stop:
                    products = grad[:, start:stop] * x[:, start + shift : stop + shift]
                    grad_weight[:, 0, tap] = products.sum((0, 1), dtype=grad_weight.dtype)
            grad_weight = grad_weight.to(weight.dtype)
        return grad_x, grad_weight, None, None


def _correlate(x: Tensor, weight: Tensor, left: int, right: int) -> Tensor:
    channels, length = x.shape[2], x.shape[1]
    pad = max(left, right)
    rows = x.contiguous().transpose(1, 2).unsqueeze(2)  # (B, D, 1, L), channels last in memory
    y = F.conv2d(rows, weight.unsqueeze(2), padding=(0, pad), groups=channels)
    return y[..., pad - left : pad - left + length].squeeze(2).transpose(1, 2)


def depthwise_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, left: int) -> Tensor:
    """Correlate every channel of `x` with its own filter along the tokens, zeros outside, length kept.

    ``y[b, t, d] = bias[d] + sum_k weight[d, 0, k] * x[b, t + k - left, d]``

    Args:
        x: Tokens (B, L, D), any floating dtype.
        weight: Filters (D, 1, K), as ``nn.Conv1d(D, D, K, groups=D)`` stores them.
        bias: (D,) or None. Defaults to None.
        left: Number of past tokens a filter sees, 0 to K - 1: K - 1 is causal, 0 anti-causal (the causal filter of
            the reversed sequence if `weight` is flipped too), (K - 1) // 2 is PyTorch's ``padding='same'``.

    Returns:
        (B, L, D) of the dtype that `x` and `weight` promote to (autocast applies as it does to a convolution).

    Raises:
        ValueError: If the shapes do not fit, or `left` lies outside the filter.
    """
    if x.ndim != 3 or weight.ndim != 3 or weight.shape[:2] != (x.shape[-1], 1):
        raise ValueError(f'x must be (B, L, D) and weight (D, 1, K); got {tuple(x.shape)} and {tuple(weight.shape)}')
    taps = weight.shape[-1]
    if not 0 <= left < taps:
        raise ValueError(f'left={left} must lie in 0..{taps - 1} for a filter of {taps} taps')
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    else:
        dtype = torch.promote_types(x.dtype, weight.dtype)
    y = _DepthwiseConv1d.apply(x.to(dtype), weight.to(dtype), left, taps - 1 - left)
    return y if bias is None else y + bias.to(y.dtype)
