"""The token mixer of MSVMamba: a scan of the whole map, and one long scan of the map at half resolution.

'Multi-Scale VMamba: Hierarchy in Hierarchy Visual State Space Model', Shi et al., NeurIPS 2024,
https://arxiv.org/abs/2405.14174, Sec. 3.2. Written from the paper and from recorded outputs of the authors' model; the
parameters have the names of its published checkpoints.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvim.models.layers.channel_attention import LinearSqueezeExcite
from mmvim.models.layers.derived_weights import DerivedWeights
from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.plain_layers import dtype_of
from mmvim.models.layers.ssm_params import init_a_log, init_dt_proj, init_skip, mark_no_weight_decay, resolve_dt_rank
from mmvim.ops import selective_scan_paths
from mmvim.ops.scan_paths import scan_paths
from mmvim.registry import MODELS


@MODELS.register_module()
class MultiScaleScan2D(DerivedWeights):
    """Mix the cells of a map by a scan along its rows and, at half resolution, by a scan along three further paths.

    The three are one sequence of three times as many steps: the second starts in the state that the first has reached,
    and the third in that of the second. This is how the published models were trained. Their outputs are normed one by
    one, put back, summed and enlarged to the whole map, to whose own scan they are added. A channel attention, a gate
    and a projection follow. The scans' outputs are float32 also under autocast.

    Args:
        embed_dims: Channels of the map.
        d_state: States of a channel. Defaults to 1.
        expand: Inner channels over ``embed_dims``. Defaults to 2.
        dt_rank: Rank of the projection to delta. Defaults to 'auto', ``ceil(embed_dims / 16)``.
        whole: Path on the whole map. Defaults to 'row'.
        half: Paths at half resolution, one after the other. Defaults to ``('row_reverse', 'col', 'col_reverse')``.
        reduction: Inner channels over the hidden ones of the channel attention. Defaults to 8.
        scan_backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.

    Raises:
        ValueError: If a path is unknown, or ``half`` is empty.

    Examples:
        >>> import torch
        >>> layer = MultiScaleScan2D(embed_dims=8)
        >>> layer(torch.randn(2, 8, 5, 9)).shape
        torch.Size([2, 8, 5, 9])
    """

    scan_operator: ClassVar[str] = 'mmvim::selective_scan'  # what a count of FLOPs must have found

    def __init__(
        self,
        embed_dims: int,
        d_state: int = 1,
        expand: float = 2,
        dt_rank: int | str = 'auto',
        whole: str = 'row',
        half: tuple[str, ...] = ('row_reverse', 'col', 'col_reverse'),
        reduction: int = 8,
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        if not half:
            raise ValueError('half is empty: name at least one scan order')
        scan_paths((whole, *half), 1, 1)  # raises for an unknown name
        self.whole, self.half_paths, self.d_state, self.scan_backend = whole, tuple(half), d_state, scan_backend
        self.d_inner = inner = int(expand * embed_dims)
        self.dt_rank = resolve_dt_rank(dt_rank, embed_dims)

        self.in_proj = nn.Linear(embed_dims, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.conv2d_b1 = nn.Conv2d(inner, inner, 7, stride=2, padding=3, groups=inner)
        # The published parameters of both scans, that at half resolution first.
        projections = [nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False) for _ in range(2)]
        steps = [init_dt_proj(self.dt_rank, inner) for _ in range(2)]
        self.x_proj_weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in projections]))
        self.dt_projs_weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in steps]))
        self.dt_projs_bias = mark_no_weight_decay(nn.Parameter(torch.stack([layer.bias.detach() for layer in steps])))
        self.A_logs = init_a_log(2 * inner, d_state)
        self.Ds = init_skip(2 * inner)
        self.out_norm = build_norm({'type': 'LN', 'eps': 1e-5}, inner)
        self.se = LinearSqueezeExcite(inner, reduction)
        self.out_proj = nn.Linear(inner, embed_dims, bias=False)

    def derive(self) -> dict[str, Tensor]:
        """See the base class."""
        return {'A': -torch.exp(self.A_logs.float())}  # (2 * d_inner, d_state)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map (B, embed_dims, H, W); same shape out."""
        x, z = self.in_proj(x.permute(0, 2, 3, 1)).chunk(2, dim=-1)  # (B, H, W, d_inner) each
        x = x.permute(0, 3, 1, 2)
        whole, half = F.silu(self.conv2d(x)), F.silu(self.conv2d_b1(x))
        scans = self._scan(whole, 1, (self.whole,)), self._scan(half, 0, self.half_paths)  # (B, paths, L, d_inner) each
        tokens = torch.cat([y.flatten(1, 2) for y in scans], dim=1)
        tokens = self.out_norm(tokens.to(dtype_of(self.out_norm, whole.dtype)))  # one norm of all outputs, one by one
        y, coarse = (
            part.unflatten(1, (-1, *maps.shape[2:])).sum(1).to(maps.dtype).permute(0, 3, 1, 2)  # (B, d_inner, h, w)
            for part, maps in zip(tokens.split([y.shape[1] * y.shape[2] for y in scans], 1), (whole, half), strict=True)
        )
        y = y + F.interpolate(coarse, whole.shape[2:], mode='bilinear', align_corners=False)
        y = self.se(y).permute(0, 2, 3, 1) * F.silu(z)
        return self.out_proj(y).permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)

    def _scan(self, x: Tensor, index: int, names: tuple[str, ...]) -> Tensor:
        """Scan a map (B, d_inner, h, w) along paths that are one sequence, by the parameters of one of the scans.

        Returns:
            (B, paths, h * w, d_inner) in raster order.
        """
        height, width = x.shape[2:]
        u = x.flatten(2)  # (B, d_inner, L)
        projected = torch.einsum('bdl,cd->bcl', u, self.x_proj_weight[index])
        dt, b, c = projected.split([self.dt_rank, self.d_state, self.d_state], dim=1)
        inner = slice(index * self.d_inner, (index + 1) * self.d_inner)
        return selective_scan_paths(
            u,
            torch.einsum('brl,dr->bdl', dt, self.dt_projs_weight[index]),
            self.derived()['A'][inner],
            b,
            c,
            self.Ds[inner].float(),
            delta_bias=self.dt_projs_bias[index].float(),
            delta_softplus=True,
            paths=scan_paths(names, height, width, device=x.device),
            combine='stack',
            chain=True,
            out_dtype=torch.promote_types(u.dtype, torch.float32),
            backend=self.scan_backend,
        ).mT
