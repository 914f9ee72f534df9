"""The two public functions of the selective scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmvim.ops.scan_paths import ScanPath
from mmvim.ops.selective_scan.arguments import (
    FOLLOWERS,
    ScanArguments,
    check_chain,
    path_of,
    several_paths,
    single_path,
)
from mmvim.ops.selective_scan.direct import call
from mmvim.ops.selective_scan.operators import run


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the selective scan (Mamba-1, S6); a superset of ``mamba_ssm``'s ``selective_scan_fn``.

    Gu and Dao, Mamba, https://arxiv.org/abs/2312.00752, Alg. 2. The definition is in ``reference.py``.

    ============= ================================= ==================================================================
    tensor        shape                             dtype
    ============= ================================= ==================================================================
    u, delta      (B, D, L), any strides            any floating point
    A             (D, N)                            kept in float32 (float64 if any of u, delta, A, B, C is)
    B, C          (D, N), (B, N, L), (B, G, N, L)   any floating point; G divides D
    D, delta_bias (D,)                              as A
    z             (B, D, L)                         any floating point
    initial_state (B, D, N)                         as A
    ============= ================================= ==================================================================

    The state is float32 (float64 if any of u, delta, A, B, C is float64), whatever the inputs or autocast. Inputs are
    read through their strides: channels-last views cost no copy (on GPUs other layouts do, once). Every tensor gets its
    gradient; a second derivative raises a RuntimeError. A batch or a sequence of length 0 gives an empty output.

    Args:
        u: Input.
        delta: Step size.
        A: State decay, real, usually negative.
        B: Input projection; constant in time if (D, N).
        C: Output projection; likewise.
        D: Skip connection. Defaults to None.
        z: Gate: the output is multiplied by silu(z). Defaults to None.
        delta_bias: Added to delta before softplus. Defaults to None.
        delta_softplus: Pass delta through softplus. Defaults to False.
        return_last_state: Return the state after the last step, too. Defaults to False.
        reverse: Scan from L-1 to 0; outputs stay at their own positions, and the last state is that after position 0.
            Defaults to False.
        initial_state: State before the first step. Defaults to None, zeros.
        out_dtype: dtype of the output; float32 spares half-precision training an overflow. Defaults to None, u's.
        backend: A name out of :func:`backends`. Defaults to None, 'auto': the environment variable
            ``MMVIM_SCAN_BACKEND`` if set, else the fastest.

    Returns:
        Output (B, D, L), or (output, last state (B, D, N) in the state's dtype). Both, and all gradients, have their
        channels side by side in memory (those of B and C their states), whatever the inputs' strides.

    Raises:
        TypeError: If an argument is not a floating-point tensor.
        ValueError: If shapes or devices do not fit, or the backend is unknown or cannot run here.

    Examples:
        >>> import torch
        >>> from mmvim.ops import selective_scan
        >>> u, delta = torch.ones(1, 2, 4), torch.full((1, 2, 4), 0.5)  # B = 1, D = 2, L = 4
        >>> A, B, C = -torch.ones(2, 3), torch.ones(1, 3, 4), torch.ones(1, 3, 4)  # N = 3
        >>> selective_scan(u, delta, A, B, C)[0, 0]
        tensor([1.5000, 2.4098, 2.9616, 3.2963])
        >>> out, last_state = selective_scan(u, delta, A, B, C, return_last_state=True)
        >>> out.shape, last_state.shape
        (torch.Size([1, 2, 4]), torch.Size([1, 2, 3]))
    """
    flags = {'delta_softplus': delta_softplus, 'reverse': reverse, 'out_dtype': out_dtype}
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    out, last_state = call(single_path, tensors, flags, backend)
    return (out, last_state[:, 0]) if return_last_state else out


def selective_scan_paths(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    paths: Sequence[ScanPath | Tensor | str],
    follow: Sequence[str] = FOLLOWERS,
    combine: str = 'sum',
    out_dtype: torch.dtype | None = None,
    backend: str | None = None,
    chain: bool = False,
) -> Tensor:
    """Run K = len(paths) selective scans of the same tokens along different orders, in one call.

    All tensors stand in raster order; path k visits raster position ``order[t]`` at step t, and its outputs are put
    back to raster order. No flipped, permuted or merged copy of a tensor is made: the scan reads through the path.

    ============= ===============================================================
    tensor        shape
    ============= ===============================================================
    u, delta      (B, D, L), shared by all paths, or (B, K, D, L)
    A             (D, N), shared, or (K, D, N)
    B, C          (B, N, L), shared, or (B, K, N, L), or (B, K, G, N, L)
    D, delta_bias (D,), shared, or (K, D)
    z             (B, D, L)
    ============= ===============================================================

    A partial path (see :class:`ScanPath`) takes T steps, T not being L. At its padding steps everything that is read
    through it is zero: the state decays by ``exp(softplus(delta_bias) * A)``, and nothing is written. Positions that it
    does not visit get 0. Tensors that are not read through it have T columns instead of L.

    On CPUs the K outputs are added in float32 and the sum is rounded to ``out_dtype``. On GPUs each of them is rounded
    to it before, to halve what goes through memory: in float16 it must not overflow by itself. So are the K gradients
    of a shared u or delta and of z, in their dtypes.

    Args:
        u: Input; what is not said here is as in :func:`selective_scan`.
        delta: Step size.
        A: State decay.
        B: Input projection.
        C: Output projection.
        D: Skip connection. Defaults to None.
        z: Gate of the combined output (of each one if stacked). Defaults to None.
        delta_bias: Added to delta before softplus. Defaults to None.
        delta_softplus: Pass delta through softplus. Defaults to False.
        paths: A :class:`ScanPath` each (see :func:`scan_paths`), an index tensor int64 (L,), 'forward' or 'reverse'.
        follow: Which of u, delta, B, C are read through the path; the others are read in raster order at every step.
            PlainMamba permutes u alone: ``('u',)``. None at all, ``()``, is for tensors that are in the order of the
            steps already, such as the results of a convolution along the path. Defaults to all.
        combine: 'sum' adds the K outputs, 'stack' returns each. Defaults to 'sum'.
        out_dtype: dtype of the output. Defaults to None, u's.
        backend: A name out of :func:`backends`. Defaults to None, 'auto'.
        chain: Start each path in the state that the one before it has reached: one long sequence without a reset
            (MSVMamba). Needs ``combine='stack'`` and as many steps of all paths. Defaults to False.

    Returns:
        (B, D, L), or (B, K, D, L) if stacked, in raster order.

    Raises:
        TypeError: If an argument is not a floating-point tensor, or a path is not a path.
        ValueError: If shapes, devices, paths, ``follow``, ``combine`` or ``chain`` do not fit, or the backend is
            unknown or cannot run here.

    Examples:
        >>> import torch
        >>> from mmvim.ops import cross_scan, selective_scan_paths
        >>> u, delta = torch.ones(1, 2, 6), torch.full((1, 2, 6), 0.5)  # B = 1, D = 2, a map of 2 x 3 tokens
        >>> A, B, C = -torch.ones(2, 3), torch.ones(1, 3, 6), torch.ones(1, 3, 6)  # N = 3
        >>> selective_scan_paths(u, delta, A, B, C, paths=cross_scan(2, 3)).shape
        torch.Size([1, 2, 6])
        >>> selective_scan_paths(u, delta, A, B, C, paths=['forward', 'reverse'], combine='stack').shape
        torch.Size([1, 2, 2, 6])
    """
    flags: dict[str, Any] = {
        'delta_softplus': delta_softplus,
        'paths': paths,
        'follow': follow,
        'combine': combine,
        'out_dtype': out_dtype,
    }
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    if chain:
        args = several_paths(*tensors, **flags)
        check_chain(args, paths)
        return _run_chain(args, backend)
    return call(several_paths, tensors, flags, backend)[0]


def _run_chain(args: ScanArguments, backend: str | None) -> Tensor:
    """Run one path after the other, each from the last state of the one before; (b, K, D, L)."""
    outputs, state = [], None
    for k in range(args.num_paths):
        y, state = run(path_of(args, k)._replace(initial_state=state), backend)
        outputs.append(y.mT)
    return torch.cat(outputs, dim=1).mT  # the channels stay side by side
