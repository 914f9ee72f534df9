"""The gate silu(z) on whole outputs, in blocks that stay in cache so that no further whole tensor is needed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 1 << 16


def apply_gate(y: Tensor, z: Tensor, out: Tensor) -> None:
    """out = y * silu(z); y and out (b, 1|K, D, L), maybe one tensor; z (b, D, L)."""
    for batch, part in _blocks(y):
        gate = F.silu(z[batch][part].to(y.dtype))
        torch.mul(y[batch][:, part[0], part[1]], gate, out=out[batch][:, part[0], part[1]]) if out.dtype == y.dtype \
            else out[batch][:, part[0], part[1]].copy_(y[batch][:, part[0], part[1]] * gate)


def gate_backward(grad_out: Tensor, y: Tensor, z: Tensor, grad_y: Tensor, grad_z: Tensor) -> None:
    """Gradients of y * silu(z); grad_out, y, grad_y (b, 1|K, D, L); z, grad_z (b, D, L); the last two are written."""
    for batch, (d, l) in _blocks(y):
        at = (slice(None), d, l)
        g, pre, gate = grad_out[batch][at].to(y.dtype), y[batch][at], z[batch][d, l].to(y.dtype)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        grad_y[batch][at].copy_(g * silu)
        slope = sigmoid.addcmul_(silu, 1 - sigmoid)
        grad_z[batch][d, l].copy_((g * pre).sum(dim=0).mul_(slope))


def _blocks(y: Tensor) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Batch element and (channels, tokens) of each block, cut along the slower axis in memory."""
    batch, paths, dim, length = y.shape
    by_token = y.stride(-1) > y.stride(-2)
    total, inner = (length, dim) if by_token else (dim, length)
    size = max(1, _BLOCK // max(1, inner * paths))
    for b in range(batch):
        for start in range(0, total, size):
            cut, whole = slice(start, min(start + size, total)), slice(None)
            yield b, (whole, cut) if by_token else (cut, whole)
