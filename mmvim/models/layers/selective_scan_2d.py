"""The selective scan as a layer on maps, along any set of paths.

The default, four paths with projections of their own, is SS2D of VMamba (Liu et al., https://arxiv.org/abs/2401.10166,
Sec. 4.2); the parameters have the names of its published checkpoints. Written from the paper.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.ssm_params import init_a_log, init_dt_proj, init_skip, mark_no_weight_decay, resolve_dt_rank
from mmvim.ops import selective_scan_paths
from mmvim.ops.scan_paths import scan_paths
from mmvim.registry import MODELS


@MODELS.register_module()
class SelectiveScan2D(nn.Module):
    """Mix the cells of a map by selective scans along one or more paths; a drop-in replacement for a convolution.

    A projection, a depthwise convolution and SiLU come first. Then every path has a scan with its own delta, A, B, C
    and D; all of them read the same map through index maps. Sum, norm, gate and a projection follow.

    Args:
        embed_dims: Channels of the map.
        paths: Names of scan orders (see :func:`mmvim.ops.scan_paths.scan_paths`). Defaults to VMamba's four:
            ``('row', 'col', 'row_reverse', 'col_reverse')``.
        d_state: States of a channel. Defaults to 16.
        expand: Inner channels over ``embed_dims``. Defaults to 2.
        dt_rank: Rank of the projection to delta. Defaults to 'auto', ``ceil(embed_dims / 16)``.
        d_conv: Side of the depthwise convolution, odd; 1 leaves it out. Defaults to 3.
        conv_bias: Give that convolution a bias. Defaults to True.
        gate: Gate the output by SiLU of a second projection (VMamba v0). Defaults to True.
        norm_cfg: Norm of the scans' sum, over channels last. Defaults to ``dict(type='LN')``, eps 1e-5.
        scan_backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.

    Raises:
        ValueError: If ``paths`` is empty or names an unknown order, or ``d_conv`` is even.

    Examples:
        >>> import torch
        >>> layer = SelectiveScan2D(embed_dims=8, paths=('row', 'col_reverse'), d_state=4)
        >>> layer(torch.randn(2, 8, 5, 9)).shape
        torch.Size([2, 8, 5, 9])
    """

    scan_operator: ClassVar[str] = 'mmvim::selective_scan'  # what a count of FLOPs must have found

    def __init__(
        self,
        embed_dims: int,
        paths: Sequence[str] = ('row', 'col', 'row_reverse', 'col_reverse'),
        d_state: int = 16,
        expand: float = 2,
        dt_rank: int | str = 'auto',
        d_conv: int = 3,
        conv_bias: bool = True,
        gate: bool = True,
        norm_cfg: dict | None = None,
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        if not paths:
            raise ValueError('paths is empty: name at least one scan order')
        if d_conv < 1 or d_conv % 2 == 0:
            raise ValueError(f'd_conv={d_conv} must be odd, or the map would change its size')
        scan_paths(paths, 1, 1)  # raises for an unknown name
        self.paths, self.d_state, self.gate, self.scan_backend = tuple(paths), d_state, gate, scan_backend
        self.d_inner = int(expand * embed_dims)
        self.dt_rank = resolve_dt_rank(dt_rank, embed_dims)
        count = len(self.paths)

        self.in_proj = nn.Linear(embed_dims, self.d_inner * (2 if gate else 1), bias=False)
        self.conv2d = (
            nn.Identity()
            if d_conv == 1
            else nn.Conv2d(self.d_inner, self.d_inner, d_conv, padding=d_conv // 2, groups=self.d_inner, bias=conv_bias)
        )
        projections = [nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False) for _ in range(count)]
        steps = [init_dt_proj(self.dt_rank, self.d_inner) for _ in range(count)]
        self.x_proj_weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in projections]))
        self.dt_projs_weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in steps]))
        self.dt_projs_bias = mark_no_weight_decay(nn.Parameter(torch.stack([layer.bias.detach() for layer in steps])))
        self.A_logs = init_a_log(count * self.d_inner, d_state)
        self.Ds = init_skip(count * self.d_inner)
        self.out_norm = build_norm(norm_cfg or {'type': 'LN', 'eps': 1e-5}, self.d_inner)
        self.out_proj = nn.Linear(self.d_inner, embed_dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map (B, embed_dims, H, W); same shape out."""
        height, width = x.shape[2:]
        x = self.in_proj(x.permute(0, 2, 3, 1))  # (B, C, H, W) -> (B, H, W, d_inner or 2 * d_inner)
        x, z = x.chunk(2, dim=-1) if self.gate else (x, None)
        u = F.silu(self.conv2d(x.permute(0, 3, 1, 2))).flatten(2)  # (B, d_inner, H * W), raster order
        # The projections are pointwise, so they commute with the scan order and run on the map as it is.
        projected = torch.einsum('bdl,kcd->bkcl', u, self.x_proj_weight)
        dt, b, c = projected.split([self.dt_rank, self.d_state, self.d_state], dim=2)
        delta = torch.einsum('bkrl,kdr->bkdl', dt, self.dt_projs_weight)
        count = len(self.paths)
        y = selective_scan_paths(
            u,
            delta,
            -torch.exp(self.A_logs.float()).unflatten(0, (count, -1)),  # (paths, d_inner, d_state)
            b,
            c,
            self.Ds.float().unflatten(0, (count, -1)),  # (paths, d_inner)
            delta_bias=self.dt_projs_bias.float(),
            delta_softplus=True,
            paths=scan_paths(self.paths, height, width, device=x.device),
            backend=self.scan_backend,
        )
        y = self.out_norm(y.transpose(1, 2)).unflatten(1, (height, width))  # (B, d_inner, L) -> (B, H, W, d_inner)
        return self.out_proj(y if z is None else y * F.silu(z)).permute(0, 3, 1, 2)  # (B, C, H, W)
