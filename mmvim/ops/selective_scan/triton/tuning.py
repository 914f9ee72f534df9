"""Block sizes by measurement, only where ``MMVIM_TRITON_AUTOTUNE=1`` asks for it.

The sizes decide in which order sums are taken, so choosing them by a clock would change the last bits from run to run;
under ``torch.use_deterministic_algorithms(True)`` the table is used all the same.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mmvim.ops.selective_scan.arguments import ScanArguments
from mmvim.ops.selective_scan.triton import launches as plan
from mmvim.ops.selective_scan.triton.blocks import Blocks, fitting
from mmvim.ops.triton_host.launch import Launch

ENV = 'MMVIM_TRITON_AUTOTUNE'
_STEPS = {'forward': (2, 4, 8), 'backward': (2, 4, 8)}
_chosen: dict[tuple, Blocks] = {}


def wanted(device: torch.device) -> bool:
    """Whether block sizes shall be measured for tensors on a device."""
    return (
        os.environ.get(ENV) == '1'
        and device.type in ('cuda', 'xpu')
        and not torch.are_deterministic_algorithms_enabled()
    )


def forward(args: ScanArguments, save: bool) -> dict[str, Blocks] | None:
    """Block sizes of the forward pass, or None for the table's."""
    if not wanted(args.u.device):
        return None
    return _measured('forward', args, lambda cut: plan.forward(args, save, cut)[0])


def backward(
    args: ScanArguments, grad_out: Tensor, grad_last_state: Tensor | None, y: Tensor | None, bounds: Tensor
) -> dict[str, Blocks] | None:
    """Block sizes of the backward pass, or None for the table's."""
    if not wanted(args.u.device):
        return None
    return _measured('backward', args, lambda cut: plan.backward(args, grad_out, grad_last_state, y, bounds, cut)[0])


def _measured(
    kernel: str, args: ScanArguments, build: Callable[[dict[str, Blocks]], list[Launch]]
) -> dict[str, Blocks]:
    """The fastest of all candidates, measured once a process for each kind of problem."""
    from triton.testing import do_bench

    batch, _, dim, length = args.u.shape
    rows = batch * args.num_paths
    key = (
        kernel,
        args.A.shape[-1],
        length.bit_length(),
        rows.bit_length(),
        dim,
        args.B.shape[2],
        args.u.dtype,
        args.u.device,
        args.z is None,
        args.maps is None,
    )
    if key not in _chosen:
        group_dim = dim // args.B.shape[2]
        # What the table has beside the sizes, as where states wait, is no matter of taste.
        row = plan.Sizes(args).blocks(kernel)
        candidates = {
            row,
            *(
                fitting(replace(row, block_d=block_d, steps=steps), kernel, dim, group_dim)
                for block_d, steps in itertools.product((32, 64, 128), _STEPS[kernel])
            ),
        }
        times = {}
        for blocks in sorted(candidates, key=repr):
            launches = build({kernel: blocks})
            times[blocks] = do_bench(lambda launches=launches: [launch.run() for launch in launches])
        _chosen[key] = min(times, key=times.__getitem__)
    return {kernel: _chosen[key]}
