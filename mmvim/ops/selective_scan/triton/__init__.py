"""The scan in Triton, for GPUs: chosen automatically for tensors on CUDA (ROCm, XPU) devices.

``forward.py``, ``backward.py`` and ``segments.py`` have the kernels and say how they work, ``reduce.py`` the sums over
what they leave, ``tiles.py`` what they share; ``launches.py`` turns a scan's arguments into launches, ``plans.py``
repeats them, ``blocks.py`` reads the table of block sizes, ``cut.py`` chooses how many programs share the work.
Importing this package does not import Triton.

A program reads neighbouring channels of a token at once, so these must lie side by side, as projections leave them.
What lies otherwise is copied: u, delta, z, B and C once for both passes (:func:`.launches.lay_out`), the gradient of
the output in the backward pass, and a first state or its gradient whose states lie side by side. The backward pass also
copies A, a few kilobytes, which it reads in its inner loop.

With ``TRITON_INTERPRET=1`` set before Python starts, the kernels run on CPU tensors, very slowly; that is for tests.
"""

from __future__ import annotations

from torch import Tensor

from mmvim.ops.selective_scan.arguments import ScanArguments
from mmvim.ops.selective_scan.operators import Implementation
from mmvim.ops.selective_scan.triton import launches, outputs, plans
from mmvim.ops.selective_scan.triton.launches import can_run
from mmvim.ops.triton_host.device import device_guard

__all__ = ['IMPLEMENTATION', 'can_run']


def forward(args: ScanArguments, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Run the forward pass: output, last state and, if ``save``, boundary states and the ungated output."""
    with device_guard(args.u.device):
        out, last_state, saved = plans.forward(args, save)
    return out, last_state, saved


def backward(args: ScanArguments, grad_out: Tensor, grad_last_state: Tensor | None, saved: Tensor) -> dict[str, Tensor]:
    """Run the backward pass: gradients by name."""
    with device_guard(args.u.device):
        return plans.backward(args, grad_out, grad_last_state, saved)


IMPLEMENTATION = Implementation(forward, backward, outputs.saved_size, launches.lay_out)
