"""The bidirectional WKV in Triton, for GPUs; the kernels are in ``kernels.py``. Not yet measured on a GPU.

A k or v whose channels do not lie side by side is copied, once for both passes (:func:`lay_out`), and a gradient of the
output that is not contiguous.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmvim.ops.bi_wkv.operators import Implementation
from mmvim.ops.triton_host.device import DEVICES, device_guard, interpreting
from mmvim.ops.triton_host.launch import Launch

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_BLOCK_D, _WARPS = 32, 1  # a channel a lane: programs are few, and tokens follow one another
_PLANES = {False: 9, True: 15}  # rows of scratch for each token, backward; if published, True


def forward_launch(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool) -> tuple[Launch, Tensor]:
    """Return the launch of the forward pass, and the output that it fills."""
    from mmvim.ops.bi_wkv.kernels import wkv_forward

    arguments = _inputs(decay, bonus, k, v, published)
    out = k.new_empty(k.shape)
    arguments |= {'out_ptr': out, 'scratch_ptr': _scratch(decay, k, 3)}
    return Launch(wkv_forward, _programs(k), arguments, _WARPS, 'wkv forward'), out


def backward_launch(
    dout: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool
) -> tuple[Launch, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return the launch of the backward pass and what it fills: shares (B, C) of ddecay and dbonus, dk and dv."""
    from mmvim.ops.bi_wkv.kernels import wkv_backward

    arguments = _inputs(decay, bonus, k, v, published)
    dk, dv = k.new_empty(k.shape), v.new_empty(v.shape)
    ddecay, dbonus = (decay.new_empty((k.shape[0], k.shape[2])) for _ in range(2))
    arguments |= {
        'dout_ptr': dout.contiguous(),
        'dk_ptr': dk,
        'dv_ptr': dv,
        'ddecay_ptr': ddecay,
        'dbonus_ptr': dbonus,
        'scratch_ptr': _scratch(decay, k, _PLANES[published]),
        'PLANES': _PLANES[published],
    }
    return Launch(wkv_backward, _programs(k), arguments, _WARPS, 'wkv backward'), (ddecay, dbonus, dk, dv)


def can_run(decay: Tensor, k: Tensor) -> bool:
    """Return whether the kernels take a call: with float32 arithmetic, on a GPU or where Triton interprets."""
    here = k.device.type in DEVICES or interpreting()
    return here and decay.dtype == torch.float32 and k.dtype in _DTYPES and k.numel() > 0


def lay_out(x: Tensor) -> Tensor:
    """Return k or v (B, T, C) with channels contiguous, as it is or a copy; a part of a wider tensor is as it is."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _inputs(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool) -> dict[str, Any]:
    """Return what both kernels read, as their arguments."""
    k, v = lay_out(k), lay_out(v)
    return {
        'decay_ptr': decay.contiguous(),
        'bonus_ptr': bonus.contiguous(),
        'k_ptr': k,
        'v_ptr': v,
        'k_b': k.stride(0),
        'k_l': k.stride(1),
        'v_b': v.stride(0),
        'v_l': v.stride(1),
        'length': k.shape[1],
        'dim': k.shape[2],
        'segment': -(-k.shape[1] // 32),
        'PUBLISHED': published,
        'BLOCK_D': _BLOCK_D,
    }


def _scratch(decay: Tensor, k: Tensor, planes: int) -> Tensor:
    return decay.new_empty((*k.shape[:2], planes, k.shape[2]))


def _programs(k: Tensor) -> int:
    return k.shape[0] * -(-k.shape[2] // _BLOCK_D)


def forward(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool) -> Tensor:
    """Run the forward pass; arguments and result as of :class:`Implementation`."""
    with device_guard(k.device):
        launch, out = forward_launch(decay, bonus, k, v, published)
        launch.run()
    return out


def backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the backward pass: gradients of decay, bonus, k and v."""
    with device_guard(k.device):
        launch, (ddecay, dbonus, dk, dv) = backward_launch(grad, decay, bonus, k, v, published)
        launch.run()
        return ddecay.sum(0), dbonus.sum(0), dk, dv


IMPLEMENTATION = Implementation(forward, backward, lay_out)
