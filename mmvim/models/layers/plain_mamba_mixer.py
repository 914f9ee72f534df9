"""The mixer of PlainMamba (Yang et al., https://arxiv.org/abs/2403.17695, Sec. 3.2).

Written from the paper and from recorded outputs, with names and habits looked up in the authors' code. The parameters
have the names of the published checkpoints.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvim.models.layers.derived_weights import DerivedWeights
from mmvim.models.layers.plain_layers import call_with_bias
from mmvim.models.layers.ssm_params import init_a_log, init_dt_proj, init_skip, mark_no_weight_decay, resolve_dt_rank
from mmvim.ops import selective_scan_paths
from mmvim.ops.scan_directions import DIRECTIONS, step_directions
from mmvim.ops.scan_paths import scan_paths
from mmvim.registry import MODELS

# Continuous, so that every step leads to a neighbour: rows from the top and from the bottom, columns likewise.
_PATHS = ('zigzag_row', 'zigzag_row_reverse', 'zigzag_col', 'zigzag_col_reverse')


@MODELS.register_module()
class PlainMambaMixer(DerivedWeights):
    """Mix the cells of a map by four zigzag scans that share all parameters, and know the direction of each step.

    A learned vector for the direction of the step that reaches a cell (one for the first) is added to B. Three habits
    of the published models, which their weights depend on, are kept: along each path only u is read in the order of
    the path, while delta, B and C are read in raster order, so that step t combines the cell that it reaches with the
    t-th cell of the map; the bias of ``dt_proj`` enters delta twice, once in the layer and once in the scan; and the
    four outputs are added, not averaged.

    Args:
        embed_dims: Channels of the map.
        d_state: States of a channel. Defaults to 16.
        d_conv: Side of the depthwise convolution before the scans, odd. Defaults to 7.
        expand: Inner channels over ``embed_dims``. Defaults to 2.
        dt_rank: Rank of the projection to delta. Defaults to 'auto', ``ceil(embed_dims / 16)``.
        scan_backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.

    Raises:
        ValueError: If ``d_conv`` is even, or ``dt_rank`` neither a positive int nor 'auto'.

    Examples:
        >>> import torch
        >>> PlainMambaMixer(embed_dims=8, d_state=4)(torch.randn(2, 8, 5, 9)).shape
        torch.Size([2, 8, 5, 9])
    """

    scan_operator: ClassVar[str] = 'mmvim::selective_scan'  # what a count of FLOPs must have found

    def __init__(
        self,
        embed_dims: int,
        d_state: int = 16,
        d_conv: int = 7,
        expand: float = 2,
        dt_rank: int | str = 'auto',
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        if d_conv < 1 or d_conv % 2 == 0:
            raise ValueError(f'd_conv={d_conv} must be odd, or the map would change its size')
        self.d_inner, self.d_state, self.scan_backend = int(expand * embed_dims), d_state, scan_backend
        self.dt_rank = resolve_dt_rank(dt_rank, embed_dims)

        self.in_proj = nn.Linear(embed_dims, 2 * self.d_inner)
        self.conv2d = nn.Conv2d(self.d_inner, self.d_inner, d_conv, padding=d_conv // 2, groups=self.d_inner)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = init_dt_proj(self.dt_rank, self.d_inner)
        with torch.no_grad():
            self.dt_proj.bias /= 2  # it enters twice
        self.A_log = init_a_log(self.d_inner, d_state)
        self.D = init_skip(self.d_inner)
        # Rows: start, right, left, up, down.
        self.direction_Bs = mark_no_weight_decay(nn.Parameter(torch.empty(len(DIRECTIONS), d_state)))
        nn.init.trunc_normal_(self.direction_Bs, std=0.02)
        self.out_proj = nn.Linear(self.d_inner, embed_dims)

    def derive(self) -> dict[str, Tensor]:
        """See the base class."""
        return {'A': -torch.exp(self.A_log.float())}  # (d_inner, d_state)

    def _direct(self, b: Tensor, height: int, width: int) -> Tensor:
        """Add the vectors of each path's directions to B: (B, L, d_state) to (B, paths, L, d_state)."""
        directions = step_directions(_PATHS, height, width, b.device)  # (paths, L)
        kinds = torch.arange(len(DIRECTIONS), device=b.device)
        # A product rather than a look-up, whose gradient would add all steps to five rows one after the other.
        chosen = (directions[..., None] == kinds).to(self.direction_Bs.dtype)  # (paths, L, 5)
        return b[:, None] + (chosen @ self.direction_Bs).to(b.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map (B, embed_dims, H, W); same shape out."""
        height, width = x.shape[2:]
        x, z = self.in_proj(x.permute(0, 2, 3, 1)).chunk(2, dim=-1)  # (B, C, H, W) -> (B, H, W, d_inner) each
        u = F.silu(self.conv2d(x.permute(0, 3, 1, 2))).flatten(2)  # (B, d_inner, L), raster order
        projected = self.x_proj(u.transpose(1, 2))  # (B, L, dt_rank + 2 * d_state)
        dt, b, c = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta, bias = call_with_bias(self.dt_proj, dt)  # (B, L, d_inner), (d_inner,)
        y = selective_scan_paths(
            u,
            delta.transpose(1, 2),  # (B, L, d_inner) -> (B, d_inner, L)
            self.derived()['A'],
            self._direct(b, height, width).mT,  # (B, paths, L, d_state) -> (B, paths, d_state, L)
            c.transpose(1, 2),  # (B, L, d_state) -> (B, d_state, L)
            self.D.float(),
            z=z.flatten(1, 2).transpose(1, 2),  # (B, H, W, d_inner) -> (B, d_inner, L)
            delta_bias=bias.float(),
            delta_softplus=True,
            paths=scan_paths(_PATHS, height, width, device=x.device),
            follow=('u',),
            backend=self.scan_backend,
        )
        y = self.out_proj(y.transpose(1, 2))  # (B, d_inner, L) -> (B, L, C)
        return y.unflatten(1, (height, width)).permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
