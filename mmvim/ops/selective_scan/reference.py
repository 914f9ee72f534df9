"""The selective scan by its definition: a loop over tokens, differentiated by autograd.

For each channel d and state n, with delta already biased and passed through softplus,

    h[t, d, n] = exp(delta[t, d] * A[d, n]) * h[t-1, d, n] + delta[t, d] * B[t, n] * u[t, d]
    y[t, d]    = sum over n of C[t, n] * h[t, d, n]  +  D[d] * u[t, d]
    out[t, d]  = y[t, d] * silu(z[t, d])

(Gu and Dao, https://arxiv.org/abs/2312.00752, Eq. 2 and Alg. 2). Along a path, "t" counts steps, and what is read at
step t stands at position ``path[t]``. At a padding step it is zero, and nothing is written. Every fast backend is
tested against this file, in float64.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops.selective_scan.arguments import ScanArguments


def scan_reference(args: ScanArguments) -> tuple[Tensor, Tensor]:
    """Run all K scans one after the other.

    Returns:
        out: (b, D, L), or (b, K, D, L) if ``args.stack``, in ``args.out_dtype``.
        last_state: (b, K, D, N), in the state dtype (that of A).
    """
    outputs, last_states = [], []
    for k in range(args.num_paths):
        y, last_state = _scan_path(args, k)
        outputs.append(y)
        last_states.append(last_state)
    out = torch.stack(outputs, dim=1)
    if not args.stack:
        out = out.sum(dim=1)
    if args.z is not None:
        gate = F.silu(args.z.to(out.dtype))
        out = out * (gate[:, None] if args.stack else gate)
    out, last_state = out.to(args.out_dtype), torch.stack(last_states, dim=1)
    return out.mT.contiguous().mT, last_state.mT.contiguous().mT  # laid out as the other backends' are


def _scan_path(args: ScanArguments, k: int) -> tuple[Tensor, Tensor]:
    """Run path k alone: its output (b, D, L) at raster positions, and its last state (b, D, N)."""
    dtype = args.A.dtype
    batch, _, dim, _ = args.u.shape
    d_state = args.A.shape[-1]
    order = _order(args, k)
    steps = order.numel()

    def read(x: Tensor, follows: bool) -> Tensor:
        if x.dim() == 3:  # constant in time
            return x[0].expand(batch, dim, d_state)[..., None].expand(-1, -1, -1, steps)
        x = x[:, k if x.shape[1] > 1 else 0].to(dtype)
        x = F.pad(x, (0, 1)).index_select(-1, order) if follows else x  # padding steps read the zeros behind the end
        return x if x.dim() == 3 else x.repeat_interleave(dim // x.shape[1], dim=1)

    u, delta = read(args.u, args.follow[0]), read(args.delta, args.follow[1])  # (b, D, T)
    B, C = read(args.B, args.follow[2]), read(args.C, args.follow[3])  # (b, D, N, T)
    A = args.A[k if args.A.shape[0] > 1 else 0]  # (D, N)

    if args.delta_bias is not None:
        delta = delta + args.delta_bias[k if args.delta_bias.shape[0] > 1 else 0][:, None]
    if args.delta_softplus:
        delta = F.softplus(delta)

    h = u.new_zeros(batch, dim, d_state) if args.initial_state is None else args.initial_state[:, k]
    outputs = []
    for t in range(steps):
        h = torch.exp(delta[..., t, None] * A) * h + (delta[..., t] * u[..., t])[..., None] * B[..., t]
        outputs.append((h * C[..., t]).sum(dim=-1))
    y = torch.stack(outputs, dim=-1) if outputs else u  # (b, D, T)
    if args.D is not None:
        y = y + args.D[k if args.D.shape[0] > 1 else 0][:, None] * u
    out = y.new_zeros(batch, dim, args.length + 1)  # what padding steps write is cut off
    return out.index_copy(-1, order, y)[..., :-1], h


def _order(args: ScanArguments, k: int) -> Tensor:
    """Return the raster position of each step of path k, int64 (T,); L at padding steps."""
    m = args.map_ids[k]
    order = torch.arange(args.steps, device=args.u.device) if m < 0 or args.maps is None else args.maps[m]
    order = torch.where(order < 0, args.length, order) if args.partial else order
    return order.flip(0) if args.reverse[k] else order
