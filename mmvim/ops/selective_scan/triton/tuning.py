"""Block sizes by measurement, only if ``MMVIM_TRITON_AUTOTUNE=1`` asks for it.

The sizes decide in which order sums are taken, so measured ones can change the last bits from run to run. Under
``torch.use_deterministic_algorithms(True)`` the table is therefore used whatever the variable says.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mmvim.ops.selective_scan.arguments import ScanArguments
from mmvim.ops.selective_scan.triton import launches
from mmvim.ops.selective_scan.triton.blocks import Blocks, fit_blocks
from mmvim.ops.selective_scan.triton.sizes import Sizes
from mmvim.ops.triton_host.launch import Launch

ENV = 'MMVIM_TRITON_AUTOTUNE'
_STEPS = {'forward': (2, 4, 8), 'backward': (2, 4, 8)}
_chosen: dict[tuple, Blocks] = {}


def is_wanted(device: torch.device) -> bool:
    """Check whether block sizes are to be measured for tensors on a device."""
    return (
        os.environ.get(ENV) == '1'
        and device.type in ('cuda', 'xpu')
        and not torch.are_deterministic_algorithms_enabled()
    )


def forward(args: ScanArguments, save: bool) -> dict[str, Blocks] | None:
    """Return the block sizes of the forward pass by kernel, or None for those of the table.

    Args:
        args: The scan.
        save: Whether to keep what the backward pass needs.
    """
    if not is_wanted(args.u.device):
        return None
    return _measure('forward', args, lambda cut: launches.forward(args, save, cut)[0])


def backward(
    args: ScanArguments, grad_out: Tensor, grad_last_state: Tensor | None, saved: Tensor
) -> dict[str, Blocks] | None:
    """Return the block sizes of the backward pass by kernel, or None for those of the table.

    Args:
        args: The scan.
        grad_out: As in :func:`.launches.backward`, like the rest.
        grad_last_state: Gradient of the last state, or None.
        saved: What the forward pass saved.
    """
    if not is_wanted(args.u.device):
        return None
    passed = (args, grad_out, grad_last_state, saved)
    return _measure('backward', args, lambda cut: launches.backward(*passed, cut)[0])


def _measure(kernel: str, args: ScanArguments, build: Callable[[dict[str, Blocks]], list[Launch]]) -> dict[str, Blocks]:
    """Return the fastest of all candidates, measured once a process for each kind of problem."""
    from triton.testing import do_bench

    batch, _, dim, _ = args.u.shape
    rows = batch * args.num_paths
    key = (
        kernel,
        args.A.shape[-1],
        args.steps.bit_length(),
        rows.bit_length(),
        dim,
        args.B.shape[2],
        args.u.dtype,
        args.u.device,
        args.z is None,
        args.maps is None,
        args.partial,
    )
    if key not in _chosen:
        group_dim = dim // args.B.shape[2]
        # Only block sizes are tuned; where states wait is fixed by the table, because it depends on the registers.
        row = Sizes(args).blocks(kernel)
        candidates = {
            row,
            *(
                fit_blocks(replace(row, block_d=block_d, steps=steps), kernel, dim, group_dim)
                for block_d, steps in itertools.product((32, 64, 128), _STEPS[kernel])
            ),
        }
        times = {}
        for blocks in sorted(candidates, key=repr):
            built = build({kernel: blocks})
            times[blocks] = do_bench(lambda built=built: [launch.run() for launch in built])
        _chosen[key] = min(times, key=times.__getitem__)
    return {kernel: _chosen[key]}
