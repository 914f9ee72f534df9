"""The bidirectional WKV in C++; the kernels are in ``mmvim/ops/native/bi_wkv.h`` and ``bi_wkv_backward.h``."""

from __future__ import annotations

import torch
from torch import Tensor

from mmvim.ops.bi_wkv.operators import Implementation
from mmvim.ops.native.load import library


def can_run(decay: Tensor, k: Tensor) -> bool:
    """Return whether C++ takes a call: on a CPU, and with float32 arithmetic."""
    return k.device.type == 'cpu' and decay.dtype == torch.float32 and k.numel() > 0


def forward(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool) -> Tensor:
    """Run the forward pass; arguments and result as of :class:`Implementation`."""
    return library().bi_wkv_forward(decay, bonus, k, v, published)


def backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the backward pass: gradients of decay, bonus, k and v."""
    return library().bi_wkv_backward(grad, decay, bonus, k, v, published)


IMPLEMENTATION = Implementation(forward, backward)
