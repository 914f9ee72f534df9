"""FLOP formulas of the operators, for ``torch.utils.flop_counter.FlopCounterMode``.

The convention of the field (https://github.com/state-spaces/mamba/issues/110): 9 operations for each path, batch
element, channel, token and state, and one more a token and channel for each of the skip D and the gate z. The backward
pass counts as twice that, and once more for the states that it computes again.
"""

import torch
from torch.utils.flop_counter import register_flop_formula

from mmvim.ops.selective_scan import operator as _operator  # noqa: F401  (defines torch.ops.mmvim)


def scan_flops(batch: int, paths: int, dim: int, length: int, d_state: int, skip: bool, gate: bool) -> int:
    """FLOPs of the forward pass."""
    return batch * dim * length * (paths * (9 * d_state + skip) + gate)


@register_flop_formula(torch.ops.mmvim.selective_scan_fwd)
def _forward(u, delta, A, B, C, D, z, delta_bias, initial_state, maps, map_ids, *_, out_shape=None, **__) -> int:
    return scan_flops(u[0], len(map_ids), u[2], u[3], A[-1], D is not None, z is not None)


@register_flop_formula(torch.ops.mmvim.selective_scan_bwd)
def _backward(grad_out, grad_last_state, y, boundaries, *inputs, out_shape=None, **kwargs) -> int:
    return 3 * _forward(*inputs)
