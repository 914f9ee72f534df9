"""Gate and skip connection on whole tensors, in blocks that stay in cache, so that no further whole tensor is made.

Tensors are (b, 1|K, D, L), z is (b, D, L).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 1 << 16


def gate(y: Tensor, z: Tensor, out: Tensor) -> None:
    """Out = y * silu(z); `out` may be `y`."""
    for block in _blocks(y):
        at = (block[0], slice(None), *block[1:])
        out[at].copy_(y[at] * F.silu(z[block].to(y.dtype)))


def gate_backward(grad_out: Tensor, y: Tensor, z: Tensor, grad_y: Tensor, grad_z: Tensor) -> None:
    """Gradients of y * silu(z), written to `grad_y` and `grad_z`."""
    for block in _blocks(y):
        at = (block[0], slice(None), *block[1:])
        g, x = grad_out[at].to(y.dtype), z[block].to(y.dtype)
        sigmoid = torch.sigmoid(x)
        silu = x * sigmoid
        grad_y[at].copy_(g * silu)
        slope = (1 - sigmoid).mul_(silu).add_(sigmoid)
        grad_z[block].copy_((g * y[at]).sum(dim=0).mul_(slope))


def skip(u: Tensor, weight: Tensor, out: Tensor) -> None:
    """Out = weight * u; u, out (b, 1, D, L), weight (D,)."""
    torch.mul(u, weight[:, None], out=out)


def skip_backward(grad_out: Tensor, u: Tensor, weight: Tensor, grad_u: Tensor) -> Tensor:
    """Gradients of weight * u: that of u written to `grad_u`, that of the weight (D,) returned."""
    torch.mul(grad_out, weight[:, None], out=grad_u)
    grad_weight = torch.zeros_like(weight)
    for b, d, l in _blocks(u):
        grad_weight[d].add_((grad_out[b, 0, d, l] * u[b, 0, d, l].to(weight.dtype)).sum(dim=-1))
    return grad_weight


def _blocks(y: Tensor) -> Iterator[tuple[int, slice, slice]]:
    """Batch element, channels and tokens of each block, cut along the slower of the two axes in memory."""
    batch, paths, dim, length = y.shape
    by_token = y.stride(-1) > y.stride(-2)
    total, inner = (length, dim) if by_token else (dim, length)
    size = max(1, _BLOCK // max(1, inner * paths))
    for b in range(batch):
        for start in range(0, total, size):
            cut = slice(start, min(start + size, total))
            yield (b, slice(None), cut) if by_token else (b, cut, slice(None))
