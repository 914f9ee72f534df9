"""The compiled scans' ``fwd`` and ``bwd``, which know nothing of autograd: what upstream functions are made of.

``fwd`` returns ``x`` for ``bwd`` alone, (B, D, K, 2N) in the state's dtype. Its last row has the last state where
``mamba_ssm`` looks for it, in ``x[:, :, -1, 1::2]``; the rows before hold, in any order, what the backend of
:mod:`mmvim.ops.selective_scan` saves for its backward pass. Both passes must be served by the same backend.

Results are contiguous, as the originals' are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops.backends import PLAIN, REFERENCE
from mmvim.ops.selective_scan.arguments import ScanArguments, single_path
from mmvim.ops.selective_scan.operators import BACKENDS, selective_scan_bwd, selective_scan_fwd

Gradients = tuple[Tensor | None, ...]


def mamba_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> list[Tensor]:
    """Run ``selective_scan_cuda.fwd`` of ``mamba_ssm``.

    Args:
        u: Input (B, D, L), any floating point.
        delta: Step size (B, D, L).
        A: State decay (D, N), real, float32.
        B: Input projection (D, N), (B, N, L) or (B, G, N, L).
        C: Output projection; likewise.
        D: Skip connection (D,), or None.
        z: Gate (B, D, L), or None.
        delta_bias: Added to delta before softplus (D,), or None.
        delta_softplus: Pass delta through softplus.

    Returns:
        out (B, D, L) before the gate, in u's dtype; x, see the top of this file; with a gate, out * silu(z).

    Raises:
        TypeError: If an argument is not a real floating-point tensor.
        ValueError: If shapes or devices do not fit.

    Examples:
        >>> import torch
        >>> u, A, B = torch.ones(1, 2, 4), -torch.ones(2, 3), torch.ones(1, 1, 3, 4)
        >>> out, x = mamba_fwd(u, u, A, B, B, None, None, None, False)
        >>> out.shape, x[:, :, -1, 1::2].shape
        (torch.Size([1, 2, 4]), torch.Size([1, 2, 3]))
    """
    wide = None if z is None else torch.promote_types(u.dtype, torch.float32)
    out, x = _forward(u, delta, A, B, C, D, delta_bias, delta_softplus, wide)
    if z is None:
        return [out, x]
    return [out.to(u.dtype), x, (out * F.silu(z.to(out.dtype))).to(u.dtype)]


def mamba_bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor,
    out: Tensor | None,
    dz: Tensor | None,
    delta_softplus: bool,
    recompute_out_z: bool,
) -> list[Tensor | None]:
    """Run ``selective_scan_cuda.bwd`` of ``mamba_ssm``.

    Args:
        u: As of :func:`mamba_fwd`, and so the next seven.
        delta: Step size.
        A: State decay.
        B: Input projection.
        C: Output projection.
        D: Skip connection, or None.
        z: Gate, or None.
        delta_bias: Bias of delta, or None.
        dout: Gradient of the (gated) output, (B, D, L).
        x: What ``fwd`` returned.
        out: The output before the gate; needed with a gate.
        dz: Where the gradient of z goes, or None for a new tensor.
        delta_softplus: As in ``fwd``.
        recompute_out_z: Return out * silu(z), too, if there is a gate.

    Returns:
        du, ddelta, dA, dB, dC, dD, ddelta_bias (None where there is no input), with a gate dz, and out_z if asked for.

    Raises:
        ValueError: If shapes do not fit, ``out`` is missing beside z, or x is not what ``fwd`` returned.

    Examples:
        >>> import torch
        >>> u, A, B = torch.ones(1, 2, 4), -torch.ones(2, 3), torch.ones(1, 1, 3, 4)
        >>> out, x = mamba_fwd(u, u, A, B, B, None, None, None, False)
        >>> grads = mamba_bwd(u, u, A, B, B, None, None, None, torch.ones_like(out), x, None, None, False, False)
        >>> len(grads), grads[2].shape, grads[5]
        (7, torch.Size([2, 3]), None)
    """
    if z is None:
        return _backward(u, delta, A, B, C, D, delta_bias, dout, x, delta_softplus)
    if out is None:
        raise ValueError('out must be the first result of fwd where there is a gate z, got None')
    y, gate, grad = (t.to(torch.promote_types(u.dtype, torch.float32)) for t in (out, z, dout))
    slope = torch.sigmoid(gate)
    opened = gate * slope  # silu(z)
    grad_z = grad * y * slope * (1 + gate * (1 - slope))
    dz = grad_z.to(z.dtype) if dz is None else dz.copy_(grad_z)
    grads = [*_backward(u, delta, A, B, C, D, delta_bias, grad * opened, x, delta_softplus), dz]
    return [*grads, (y * opened).to(u.dtype)] if recompute_out_z else grads


def core_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    nrows: int = 1,
) -> list[Tensor]:
    """Run ``fwd`` of VMamba's ``selective_scan_cuda_core`` (and ``_nrow``, ``_ndstate``): the scan without a gate.

    Args:
        u: As of :func:`mamba_fwd`, and so what follows.
        delta: Step size.
        A: State decay.
        B: Input projection.
        C: Output projection.
        D: Skip connection, or None.
        delta_bias: Bias of delta, or None.
        delta_softplus: Pass delta through softplus.
        nrows: Channels that a thread of the original takes; changes nothing here. Defaults to 1.

    Returns:
        out (B, D, L) in u's dtype, and x.

    Raises:
        ValueError: If shapes or devices do not fit.

    Examples:
        >>> import torch
        >>> u, A, B = torch.ones(1, 2, 4), -torch.ones(2, 3), torch.ones(1, 1, 3, 4)
        >>> core_fwd(u, u, A, B, B, None, None, True, 1)[0].shape
        torch.Size([1, 2, 4])
    """
    return [*_forward(u, delta, A, B, C, D, delta_bias, delta_softplus, None)]


def oflex_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    nrows: int = 1,
    out_float: bool = True,
) -> list[Tensor]:
    """Run ``fwd`` of VMamba's ``selective_scan_cuda_oflex``: :func:`core_fwd`, and a choice of the output's dtype.

    Args:
        u: As of :func:`core_fwd`, and so what follows.
        delta: Step size.
        A: State decay.
        B: Input projection.
        C: Output projection.
        D: Skip connection, or None.
        delta_bias: Bias of delta, or None.
        delta_softplus: Pass delta through softplus.
        nrows: Changes nothing here. Defaults to 1.
        out_float: Return float32 (float64 for such a u) whatever u's dtype. Defaults to True.

    Returns:
        out (B, D, L), and x.

    Raises:
        ValueError: If shapes or devices do not fit.

    Examples:
        >>> import torch
        >>> u, A, B = torch.ones(1, 2, 4).half(), -torch.ones(2, 3), torch.ones(1, 1, 3, 4).half()
        >>> [oflex_fwd(u, u, A, B, B, None, None, True, 1, flag)[0].dtype for flag in (True, False)]
        [torch.float32, torch.float16]
    """
    wide = torch.promote_types(u.dtype, torch.float32) if out_float else None
    return [*_forward(u, delta, A, B, C, D, delta_bias, delta_softplus, wide)]


def core_bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor,
    delta_softplus: bool,
    nrows: int = 1,
) -> list[Tensor | None]:
    """Run ``bwd`` of VMamba's compiled modules.

    Args:
        u: As of :func:`core_fwd`, and so the next six.
        delta: Step size.
        A: State decay.
        B: Input projection.
        C: Output projection.
        D: Skip connection, or None.
        delta_bias: Bias of delta, or None.
        dout: Gradient of the output (B, D, L), in its dtype.
        x: What ``fwd`` returned.
        delta_softplus: As in ``fwd``.
        nrows: Changes nothing here. Defaults to 1.

    Returns:
        du, ddelta, dA, dB, dC, dD, ddelta_bias, in their inputs' dtypes; None where there is no input.

    Raises:
        ValueError: If shapes do not fit, or x is not what ``fwd`` returned.

    Examples:
        >>> import torch
        >>> u, A, B = torch.ones(1, 2, 4), -torch.ones(2, 3), torch.ones(1, 1, 3, 4)
        >>> out, x = core_fwd(u, u, A, B, B, torch.ones(2), None, True, 1)
        >>> [None if g is None else tuple(g.shape) for g in core_bwd(u, u, A, B, B, torch.ones(2), None, out, x, True)]
        [(1, 2, 4), (1, 2, 4), (2, 3), (1, 1, 3, 4), (1, 1, 3, 4), (2,), None]
    """
    return _backward(u, delta, A, B, C, D, delta_bias, dout, x, delta_softplus)


def _arguments(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    out_dtype: torch.dtype | None,
) -> tuple[ScanArguments, str]:
    """Return the arguments as the serving backend reads them, and its name."""
    args = single_path(u, delta, A, B, C, D, None, delta_bias, None, delta_softplus, False, out_dtype)
    name = BACKENDS.select(None, u.device.type, args)
    name = PLAIN if name == REFERENCE else name  # which has no backward pass of its own
    lay_out = BACKENDS[name].implementation.lay_out
    return (lay_out(args) if lay_out else args), name


@torch.no_grad()
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    out_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    args, name = _arguments(u, delta, A, B, C, D, delta_bias, delta_softplus, out_dtype)
    out, last_state, saved = selective_scan_fwd(*args, True, name)
    batch, _, dim, d_state = last_state.shape
    row = 2 * batch * dim * d_state
    rows = -(-saved.numel() // row) if row else 0
    x = saved.new_zeros((rows + 1, batch, dim, 2 * d_state))
    x[:rows].view(-1)[: saved.numel()] = saved
    x[rows, :, :, 1::2] = last_state[:, 0]
    return out.contiguous(), x.permute(1, 2, 0, 3)  # (B, D, K, 2N)


@torch.no_grad()
def _backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor,
    delta_softplus: bool,
) -> list[Tensor | None]:
    args, name = _arguments(u, delta, A, B, C, D, delta_bias, delta_softplus, dout.dtype)
    size = BACKENDS[name].implementation.saved_size(args)
    saved = x.permute(2, 0, 1, 3)[:-1].reshape(-1)[:size]  # (K - 1, B, D, 2N), in the order that fwd wrote
    if saved.numel() < size or saved.dtype != args.A.dtype:
        raise ValueError(
            f'x must be what fwd returned for these inputs, with at least {size} values of {args.A.dtype} before its '
            f'last row; got {tuple(x.shape)} of {x.dtype}'
        )
    du, ddelta, dA, dB, dC, dD, _, dbias, _ = selective_scan_bwd(dout, None, saved, *args[:-1], name)
    grads = {
        'u': (u, du[:, 0]),
        'delta': (delta, ddelta[:, 0]),
        'A': (A, dA[0]),
        'B': (B, _projection(dB, B)),
        'C': (C, _projection(dC, C)),
        'D': (D, dD[0] if D is not None else dD),
        'delta_bias': (delta_bias, dbias[0] if delta_bias is not None else dbias),
    }
    return [None if like is None else grad.to(like.dtype).contiguous() for like, grad in grads.values()]


def _projection(grad: Tensor, like: Tensor) -> Tensor:
    """Return a gradient of B or C in the shape it was given: (D, N), (B, N, L) or (B, G, N, L)."""
    if like.dim() == 2:
        return grad[0]
    groups = 1 if like.dim() == 3 else like.shape[1]
    grad = grad[:, 0].unflatten(1, (groups, -1)).sum(2)  # (B, G, N, L): other groups than the other one's were repeated
    return grad[:, 0] if like.dim() == 3 else grad
