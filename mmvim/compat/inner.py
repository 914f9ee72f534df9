"""The functions of ``mamba_ssm.ops.selective_scan_interface``, those of Vim's fork among them, on mmvim's operators.

Differentiated by autograd. Outputs are contiguous, as the originals' are: scripts that ``view`` them rely on it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from mmvim.compat.convolution import causal_conv1d_fn
from mmvim.ops import selective_scan

Result = Tensor | tuple[Tensor, Tensor]


def selective_scan_fn(
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
) -> Result:
    """Run the selective scan; :func:`mmvim.ops.selective_scan` with a contiguous output.

    Args:
        u: Input (B, D, L), any floating point.
        delta: Step size (B, D, L).
        A: State decay (D, N), real.
        B: Input projection (D, N), (B, N, L) or (B, G, N, L).
        C: Output projection; likewise.
        D: Skip connection (D,). Defaults to None.
        z: Gate (B, D, L). Defaults to None.
        delta_bias: Added to delta before softplus (D,). Defaults to None.
        delta_softplus: Pass delta through softplus. Defaults to False.
        return_last_state: Return the state after the last step, too. Defaults to False.

    Returns:
        (B, D, L) in u's dtype; or that and the last state (B, D, N), which has a gradient here.

    Raises:
        TypeError: If an argument is not a real floating-point tensor.
        ValueError: If shapes or devices do not fit.

    Examples:
        >>> import torch
        >>> u, A, B = torch.ones(1, 2, 4), -torch.ones(2, 3), torch.ones(1, 3, 4)
        >>> selective_scan_fn(u, 0.5 * u, A, B, B, delta_softplus=False)[0, 0]
        tensor([1.5000, 2.4098, 2.9616, 3.2963])
    """
    return _scan(None, u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


def selective_scan_ref(
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
) -> Result:
    """Run :func:`selective_scan_fn` by its definition, a loop over tokens (the backend 'reference').

    Args:
        u: As of :func:`selective_scan_fn`, and so what follows.
        delta: Step size.
        A: State decay.
        B: Input projection.
        C: Output projection.
        D: Skip connection. Defaults to None.
        z: Gate. Defaults to None.
        delta_bias: Bias of delta. Defaults to None.
        delta_softplus: Pass delta through softplus. Defaults to False.
        return_last_state: Return the last state, too. Defaults to False.

    Returns:
        As :func:`selective_scan_fn`.

    Raises:
        ValueError: If shapes or devices do not fit.

    Examples:
        >>> import torch
        >>> u, A, B = torch.ones(1, 2, 4), -torch.ones(2, 3), torch.ones(1, 3, 4)
        >>> torch.allclose(selective_scan_ref(u, u, A, B, B), selective_scan_fn(u, u, A, B, B))
        True
    """
    return _scan('reference', u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """Run all of a Mamba mixer but its first projection (Gu and Dao, https://arxiv.org/abs/2312.00752, Fig. 3).

    Args:
        xz: Input and gate (batch, 2D, L).
        conv1d_weight: Filters (D, 1, W).
        conv1d_bias: (D,) or None.
        x_proj_weight: To (delta's rank R, B, C), (R + 2N, D).
        delta_proj_weight: From R to the channels (D, R).
        out_proj_weight: (E, D).
        out_proj_bias: (E,) or None.
        A: State decay (D, N), real.
        B: Input projection, as of :func:`selective_scan_fn`. Defaults to None, by ``x_proj_weight``.
        C: Output projection. Defaults to None, by ``x_proj_weight``.
        D: Skip connection (D,). Defaults to None.
        delta_bias: (D,). Defaults to None.
        B_proj_bias: Added to a projected B, (N,). Defaults to None.
        C_proj_bias: Added to a projected C, (N,). Defaults to None.
        delta_softplus: Pass delta through softplus. Defaults to True.

    Returns:
        (batch, L, E).

    Raises:
        ValueError: If shapes do not fit.

    Examples:
        >>> import torch
        >>> weights = [torch.ones(2, 1, 4), None, torch.ones(7, 2), torch.ones(2, 1), torch.ones(5, 2), None]
        >>> mamba_inner_fn(torch.ones(1, 4, 6), *weights, -torch.ones(2, 3)).shape
        torch.Size([1, 6, 5])
    """
    inner = (xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight)
    y = _inner(selective_scan_fn, *inner, A, None, B, C, D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus)
    return _project_out(y, out_proj_weight, out_proj_bias)


def mamba_inner_ref(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """Run :func:`mamba_inner_fn` with the scan by its definition.

    Args:
        xz: As of :func:`mamba_inner_fn`, and so what follows.
        conv1d_weight: Filters.
        conv1d_bias: Their bias, or None.
        x_proj_weight: To delta's rank, B and C.
        delta_proj_weight: From the rank to the channels.
        out_proj_weight: The last projection.
        out_proj_bias: Its bias, or None.
        A: State decay.
        B: Input projection. Defaults to None.
        C: Output projection. Defaults to None.
        D: Skip connection. Defaults to None.
        delta_bias: Bias of delta. Defaults to None.
        B_proj_bias: Bias of a projected B. Defaults to None.
        C_proj_bias: Bias of a projected C. Defaults to None.
        delta_softplus: Pass delta through softplus. Defaults to True.

    Returns:
        (batch, L, E).

    Raises:
        ValueError: If shapes do not fit.

    Examples:
        >>> import torch
        >>> weights = [torch.ones(2, 1, 4), None, torch.ones(7, 2), torch.ones(2, 1), torch.ones(5, 2), None]
        >>> mamba_inner_ref(torch.ones(1, 4, 6), *weights, -torch.ones(2, 3)).shape
        torch.Size([1, 6, 5])
    """
    inner = (xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight)
    y = _inner(selective_scan_ref, *inner, A, None, B, C, D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus)
    return _project_out(y, out_proj_weight, out_proj_bias)


def mamba_inner_fn_no_out_proj(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """Run :func:`mamba_inner_fn` without the last projection: what Vim's fork runs in each direction.

    Args:
        xz: As of :func:`mamba_inner_fn`, and so what follows.
        conv1d_weight: Filters.
        conv1d_bias: Their bias, or None.
        x_proj_weight: To delta's rank, B and C.
        delta_proj_weight: From the rank to the channels.
        A: State decay.
        B: Input projection. Defaults to None.
        C: Output projection. Defaults to None.
        D: Skip connection. Defaults to None.
        delta_bias: Bias of delta. Defaults to None.
        B_proj_bias: Bias of a projected B. Defaults to None.
        C_proj_bias: Bias of a projected C. Defaults to None.
        delta_softplus: Pass delta through softplus. Defaults to True.

    Returns:
        (batch, D, L).

    Raises:
        ValueError: If shapes do not fit.

    Examples:
        >>> import torch
        >>> weights = [torch.ones(2, 1, 4), None, torch.ones(7, 2), torch.ones(2, 1)]
        >>> mamba_inner_fn_no_out_proj(torch.ones(1, 4, 6), *weights, -torch.ones(2, 3)).shape
        torch.Size([1, 2, 6])
    """
    inner = (xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight)
    return _inner(selective_scan_fn, *inner, A, None, B, C, D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus)


def bimamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    A_b: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """Run Vim's first bidirectional mixer (v1): one input and its projections, scanned both ways and added.

    Args:
        xz: As of :func:`mamba_inner_fn`, and so what follows.
        conv1d_weight: Filters.
        conv1d_bias: Their bias, or None.
        x_proj_weight: To delta's rank, B and C.
        delta_proj_weight: From the rank to the channels.
        out_proj_weight: The last projection.
        out_proj_bias: Its bias, or None.
        A: State decay of the forward scan (D, N).
        A_b: State decay of the backward scan (D, N).
        B: Input projection. Defaults to None.
        C: Output projection. Defaults to None.
        D: Skip connection of both. Defaults to None.
        delta_bias: Bias of delta. Defaults to None.
        B_proj_bias: Bias of a projected B. Defaults to None.
        C_proj_bias: Bias of a projected C. Defaults to None.
        delta_softplus: Pass delta through softplus. Defaults to True.

    Returns:
        (batch, L, E).

    Raises:
        ValueError: If shapes do not fit.

    Examples:
        >>> import torch
        >>> weights = [torch.ones(2, 1, 4), None, torch.ones(7, 2), torch.ones(2, 1), torch.ones(5, 2), None]
        >>> bimamba_inner_fn(torch.ones(1, 4, 6), *weights, -torch.ones(2, 3), -torch.ones(2, 3)).shape
        torch.Size([1, 6, 5])
    """
    inner = (xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight)
    y = _inner(selective_scan_fn, *inner, A, A_b, B, C, D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus)
    return _project_out(y, out_proj_weight, out_proj_bias)


def _scan(backend: str | None, *arguments: object) -> Result:
    result = selective_scan(*arguments, backend=backend)  # type: ignore[arg-type]
    if isinstance(result, tuple):
        return result[0].contiguous(), result[1].contiguous()
    return result.contiguous()


def _inner(
    scan: Callable[..., Tensor],
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    A_b: Tensor | None,
    B: Tensor | None,
    C: Tensor | None,
    D: Tensor | None,
    delta_bias: Tensor | None,
    B_proj_bias: Tensor | None,
    C_proj_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """Return what reaches the last projection, (batch, D, L); with ``A_b`` the sum of both directions."""
    if xz.dim() != 3 or xz.shape[1] != 2 * A.shape[0] or conv1d_weight.dim() != 3:
        raise ValueError(
            'xz must be (batch, 2D, L), A (D, N) and conv1d_weight (D, 1, W), got '
            f'{tuple(xz.shape)}, {tuple(A.shape)} and {tuple(conv1d_weight.shape)}'
        )
    rank, d_state = delta_proj_weight.shape[1], A.shape[1]
    x, z = xz.chunk(2, dim=1)
    x = causal_conv1d_fn(x, conv1d_weight.squeeze(1), conv1d_bias, activation='silu')
    projected = F.linear(x.mT, x_proj_weight)  # (batch, L, R + 2N)
    delta = F.linear(projected[..., :rank], delta_proj_weight).mT
    if B is None:
        B = _add(projected[..., rank : rank + d_state], B_proj_bias).mT  # (batch, N, L)
    if C is None:
        C = _add(projected[..., projected.shape[-1] - d_state :], C_proj_bias).mT
    y = scan(x, delta, A, B, C, D, z, delta_bias, delta_softplus)
    if A_b is None:
        return y
    flipped = [t if t.dim() == 2 else t.flip(-1) for t in (x, delta, A_b, B, C)]  # what is constant in time stays
    return y + scan(*flipped, D, z.flip(-1), delta_bias, delta_softplus).flip(-1)


def _add(projected: Tensor, bias: Tensor | None) -> Tensor:
    return projected if bias is None else projected + bias.to(projected.dtype)


def _project_out(y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(y.mT, weight, bias)
