"""The bidirectional Mamba mixer of Vision Mamba (Zhu et al., https://arxiv.org/abs/2401.09417, Alg. 1).

Written from the paper. The parameters have the names of the published checkpoints: ``A_log``, ``D``, ``conv1d``,
``x_proj`` and ``dt_proj`` for the forward direction, ``A_b_log``, ``D_b``, ``conv1d_b``, ``x_proj_b`` and ``dt_proj_b``
for the backward one.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvim.models.layers.derived_weights import DerivedWeights
from mmvim.models.layers.plain_layers import is_plain
from mmvim.models.layers.ssm_params import init_a_log, init_dt_proj, init_skip, resolve_dt_rank
from mmvim.models.layers.vim_chunks import VimWeights, mix_in_chunks
from mmvim.ops import selective_scan_paths
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.define import is_watched
from mmvim.ops.linear import linear
from mmvim.registry import MODELS


@MODELS.register_module()
class VimMixer(DerivedWeights):
    """Mix tokens by two selective scans, one along the sequence and one against it, gated and averaged.

    Both directions run in one call of the scan. The backward one steps through the sequence in reverse, so no flipped
    copy is made.

    Args:
        embed_dims: Channels of a token.
        d_state: States of a channel. Defaults to 16.
        d_conv: Taps of the causal depthwise convolution before each scan. Defaults to 4.
        expand: Inner channels over ``embed_dims``. Defaults to 2.
        dt_rank: Rank of the projection to delta. Defaults to 'auto', ``ceil(embed_dims / 16)``.
        if_divide_out: Average the two directions rather than add them. Defaults to True.
        scan_backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.

    Raises:
        ValueError: If ``dt_rank`` is neither a positive int nor 'auto'.

    Examples:
        >>> import torch
        >>> VimMixer(embed_dims=8, d_state=4)(torch.randn(2, 196, 8)).shape
        torch.Size([2, 196, 8])
    """

    scan_operator: ClassVar[str] = 'mmvim::selective_scan'  # what a count of FLOPs must have found
    chunk: ClassVar[int] = 1024  # tokens of a part
    in_chunks: bool = False  # mix long sequences part by part where no gradient is wanted
    conv1d: nn.Conv1d
    conv1d_b: nn.Conv1d
    x_proj: nn.Linear
    x_proj_b: nn.Linear
    dt_proj: nn.Linear
    dt_proj_b: nn.Linear
    A_log: nn.Parameter
    A_b_log: nn.Parameter
    D: nn.Parameter
    D_b: nn.Parameter

    def __init__(
        self,
        embed_dims: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = 'auto',
        if_divide_out: bool = True,
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        self.d_inner = int(expand * embed_dims)
        self.d_state, self.d_conv = d_state, d_conv
        self.dt_rank = resolve_dt_rank(dt_rank, embed_dims)
        self.if_divide_out, self.scan_backend = if_divide_out, scan_backend

        self.in_proj = nn.Linear(embed_dims, 2 * self.d_inner, bias=False)
        for suffix in ('', '_b'):
            setattr(self, f'conv1d{suffix}', nn.Conv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner))
            setattr(self, f'x_proj{suffix}', nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False))
            setattr(self, f'dt_proj{suffix}', init_dt_proj(self.dt_rank, self.d_inner))
            setattr(self, f'A{suffix}_log', init_a_log(self.d_inner, d_state))
            setattr(self, f'D{suffix}', init_skip(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, embed_dims, bias=False)

    def _has_plain(self, name: str) -> bool:
        """Return whether a layer and the backward direction's are plain, see :func:`is_plain`."""
        kind = nn.Conv1d if name == 'conv1d' else nn.Linear
        return is_plain(kind, getattr(self, name), getattr(self, f'{name}_b'))

    def derive(self) -> dict[str, Tensor]:
        """Compute A and D of both directions, and one weight for both of each layer that is plain."""
        derived = {'A': -torch.exp(_stack(self.A_log, self.A_b_log).float()), 'D': _stack(self.D, self.D_b).float()}
        if self._has_plain('conv1d'):
            # A causal filter over the reversed sequence is the mirrored filter over the next tokens.
            filters = torch.cat([self.conv1d.weight, self.conv1d_b.weight.flip(-1)], dim=1)  # (d_inner, 2, d_conv)
            derived['conv1d'] = filters.transpose(0, 1)  # (2, d_inner, d_conv)
            derived['conv1d_bias'] = torch.stack([self.conv1d.bias, self.conv1d_b.bias])  # type: ignore[list-item]
        for name in ('x_proj', 'dt_proj'):
            if self._has_plain(name):
                layer, layer_b = getattr(self, name), getattr(self, f'{name}_b')
                derived[name] = _stack(layer.weight, layer_b.weight)  # (2, out, in)
                if layer.bias is not None:
                    derived[f'{name}_bias'] = _stack(layer.bias, layer_b.bias)  # (2, out)
        return derived

    def derived(self) -> dict[str, Tensor]:
        """See the base class; what was kept of a layer that somebody has wrapped since is left out."""
        found = super().derived()
        wrapped = [name for name in ('conv1d', 'x_proj', 'dt_proj') if self._kept and not self._has_plain(name)]
        return {name: x for name, x in found.items() if name.removesuffix('_bias') not in wrapped} if wrapped else found

    def fold_average(self) -> None:
        """Put the factor 1/2 of the two directions' average into ``out_proj``, in place, where that is plain."""
        if self.if_divide_out and is_plain(nn.Linear, self.out_proj):
            with torch.no_grad():
                self.out_proj.weight /= 2  # exact
            self.if_divide_out = False

    def chunk_weights(self, derived: dict[str, Tensor]) -> VimWeights | None:
        """Return what :func:`mix_in_chunks` takes, or None if a layer is not plain, and has to be called.

        Args:
            derived: What :meth:`derived` returns.
        """
        projections = self.in_proj, self.out_proj
        if not is_plain(nn.Linear, *projections) or any(layer.bias is not None for layer in projections):
            return None
        weights = {'in_proj': self.in_proj.weight, 'out_proj': self.out_proj.weight, **derived}
        return VimWeights(**weights) if set(weights) == set(VimWeights._fields) else None

    def _filter(self, x: Tensor, derived: dict[str, Tensor]) -> Tensor:
        """Run both convolutions and SiLU: (B, L, d_inner) to (B, 2, L, d_inner)."""
        past = self.d_conv - 1
        if 'conv1d' in derived:
            return conv1d_silu(x, derived['conv1d'], derived['conv1d_bias'], (past, 0), self.scan_backend)
        x = x.transpose(1, 2)  # (B, d_inner, L)
        forward = self.conv1d(F.pad(x, (past, 0)))
        backward = self.conv1d_b(F.pad(x.flip(-1), (past, 0))).flip(-1)
        return F.silu(_stack(forward, backward, dim=1)).transpose(2, 3)  # (B, 2, d_inner, L) -> (B, 2, L, d_inner)

    def _project(self, x: Tensor, name: str, derived: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Project (B, 2, L, C), each direction by its layer: (B, 2, L, D), and the bias (2, D) still to be added."""
        if name in derived:  # one product serves both directions, nothing is concatenated
            weight, bias = derived[name], derived.get(f'{name}_bias')
            if self._kept:
                return _stack(linear(x[:, 0], weight[0]), linear(x[:, 1], weight[1]), dim=1), bias
            return torch.matmul(x, weight.mT), bias
        return _stack(getattr(self, name)(x[:, 0]), getattr(self, f'{name}_b')(x[:, 1]), dim=1), None

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens (B, L, embed_dims); same shape and order out."""
        derived = self.derived()
        if self.in_chunks and x.shape[1] > 2 * self.chunk and not torch.is_grad_enabled() and not is_watched():
            weights = self.chunk_weights(derived)
            if weights is not None:
                y = mix_in_chunks(x, weights, self.chunk, self.scan_backend)
                return y / 2 if self.if_divide_out else y
        x, z = self.in_proj(x).chunk(2, dim=-1)  # each (B, L, d_inner)
        u = self._filter(x, derived)
        projected, _ = self._project(u, 'x_proj', derived)
        dt, b, c = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)  # each (B, 2, L, ...)
        delta, delta_bias = self._project(dt, 'dt_proj', derived)
        # Channels stay contiguous in memory: the scan takes transposed views, (B, 2, L, D) -> (B, 2, D, L).
        y = selective_scan_paths(
            u.transpose(2, 3),
            delta.transpose(2, 3),
            derived['A'],
            b.transpose(2, 3),
            c.transpose(2, 3),
            derived['D'],
            z=z.transpose(1, 2),  # (B, L, d_inner) -> (B, d_inner, L)
            delta_bias=None if delta_bias is None else delta_bias.float(),
            delta_softplus=True,
            paths=('forward', 'reverse'),
            backend=self.scan_backend,
        )
        y = y.transpose(1, 2)  # (B, d_inner, L) -> (B, L, d_inner)
        return self.out_proj(y / 2 if self.if_divide_out else y)


def _stack(forward: Tensor, backward: Tensor, dim: int = 0) -> Tensor:
    return torch.stack([forward, backward], dim)
