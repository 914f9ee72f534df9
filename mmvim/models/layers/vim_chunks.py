"""Vim's mixer on a part of the sequence at a time: the same result in less memory, without gradients.

What a token's output depends on beside the token is the state of the scan and, through the convolution, the tokens just
before it (or, in the backward direction, just after it). So one sweep runs the forward direction part by part and
keeps its outputs, and one from the end runs the other direction, adds the outputs, gates and projects them. All else
that a mixer computes, some twelve numbers for each that is kept, is there for one part alone.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops import selective_scan
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.define import autocast_dtype
from mmvim.ops.linear import linear


class VimWeights(NamedTuple):
    """The weights of a :class:`mmvim.VimMixer`, with an axis for the two directions.

    Attributes:
        in_proj: (2 * d_inner, C), of x and of the gate z.
        conv1d: (2, d_inner, taps), the backward direction's mirrored.
        conv1d_bias: (2, d_inner).
        x_proj: (2, dt_rank + 2 * d_state, d_inner).
        dt_proj: (2, d_inner, dt_rank).
        dt_proj_bias: (2, d_inner).
        A: (2, d_inner, d_state).
        D: (2, d_inner).
        out_proj: (C, d_inner).
    """

    in_proj: Tensor
    conv1d: Tensor
    conv1d_bias: Tensor
    x_proj: Tensor
    dt_proj: Tensor
    dt_proj_bias: Tensor
    A: Tensor
    D: Tensor
    out_proj: Tensor


def mix_in_chunks(tokens: Tensor, weights: VimWeights, size: int, scan_backend: str | None = None) -> Tensor:
    """Mix tokens by both directions, added up, gated and projected.

    Args:
        tokens: (B, L, C).
        weights: See there.
        size: Tokens of a part, at least one.
        scan_backend: Backend of the scan and the convolution. Defaults to None, the fastest there is.

    Returns:
        (B, L, C).

    Examples:
        >>> from mmvim.models.layers.vim_mixer import VimMixer
        >>> mixer, tokens = VimMixer(8, d_state=4).eval(), torch.randn(2, 50, 8)
        >>> with torch.no_grad():
        ...     wanted = mixer(tokens)
        ...     mixed = mix_in_chunks(tokens, mixer.chunk_weights(mixer.derived()), size=16) / 2
        >>> torch.allclose(mixed, wanted, atol=1e-6)
        True
    """
    batch, length, _ = tokens.shape
    inner, taps = weights.conv1d.shape[1:]
    states, rank, past = weights.A.shape[2], weights.dt_proj.shape[2], taps - 1
    of_x, of_z = weights.in_proj[:inner], weights.in_proj[inner:]

    def scan(x: Tensor, k: int, seen: slice, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Convolve and scan direction k on a part with its halo (B, ., d_inner); (B, T, d_inner) and the state."""
        left = past if k == 0 else 0
        u = conv1d_silu(x, weights.conv1d[k : k + 1], weights.conv1d_bias[k : k + 1], (left,), scan_backend)[:, 0, seen]
        dt, b, c = linear(u, weights.x_proj[k]).split([rank, states, states], dim=-1)
        y, state = selective_scan(
            u.mT,
            linear(dt, weights.dt_proj[k]).mT,  # (B, T, d_inner) -> (B, d_inner, T)
            weights.A[k],
            b.mT,
            c.mT,
            weights.D[k],
            delta_bias=weights.dt_proj_bias[k],
            delta_softplus=True,
            return_last_state=True,
            reverse=k == 1,
            initial_state=state,
            out_dtype=torch.promote_types(u.dtype, torch.float32),
            backend=scan_backend,
        )
        return y.mT, state

    state = None
    wide = torch.promote_types(autocast_dtype(tokens) or tokens.dtype, torch.float32)
    sums = tokens.new_empty(batch, length, inner, dtype=wide)
    out = tokens.new_empty(batch, length, weights.out_proj.shape[0], dtype=autocast_dtype(tokens) or tokens.dtype)
    begins = range(0, length, size)
    for begin in begins:
        end, halo = min(begin + size, length), min(past, begin)
        y, state = scan(linear(tokens[:, begin - halo : end], of_x), 0, slice(halo, None), state)
        sums[:, begin:end] = y
    state = None
    for begin in reversed(begins):
        end = min(begin + size, length)
        x = linear(tokens[:, begin : end + past], of_x)
        y, state = scan(x, 1, slice(None, end - begin), state)
        y += sums[:, begin:end]
        y *= F.silu(linear(tokens[:, begin:end], of_z))
        out[:, begin:end] = linear(y.to(x.dtype), weights.out_proj)
    return out
