"""The selective scan as a layer on maps, along any set of paths.

The default, four paths with projections of their own, is SS2D of VMamba (Liu et al., https://arxiv.org/abs/2401.10166,
Sec. 4.2); the parameters have the names of its published checkpoints. Written from the paper.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvim.models.layers.derived_weights import DerivedWeights
from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.plain_layers import dtype_of
from mmvim.models.layers.ssm_params import init_a_log, init_dt_proj, init_skip, mark_no_weight_decay, resolve_dt_rank
from mmvim.ops import selective_scan_paths
from mmvim.ops.scan_paths import scan_paths
from mmvim.registry import MODELS


def project(x: Tensor, weight: Tensor) -> Tensor:
    """Project the cells for each path by a matrix of its own.

    Args:
        x: (B, in, L) for all paths, or (B, paths, in, L).
        weight: (paths, out, in).

    Returns:
        (B, paths, out, L).

    Examples:
        >>> project(torch.randn(2, 8, 5), torch.randn(4, 3, 8)).shape
        torch.Size([2, 4, 3, 5])
    """
    return torch.einsum('bdl,kcd->bkcl' if x.ndim == 3 else 'bkdl,kcd->bkcl', x, weight)


class PathLinear(nn.Module):
    """The projections of all paths as one matrix, ``weight`` (paths * out, in), one below the other.

    Args:
        weight: (paths, out, in), the initial values.

    Examples:
        >>> layer = PathLinear(torch.randn(4, 3, 8))
        >>> layer.weight.shape, layer(torch.randn(2, 8, 5)).shape
        (torch.Size([12, 8]), torch.Size([2, 4, 3, 5]))
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.paths = len(weight)
        self.weight = nn.Parameter(weight.detach().flatten(0, 1))  # (paths, out, in) -> (paths * out, in)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, L), or (B, paths, in, L), to (B, paths, out, L)."""
        return project(x, self.weight.unflatten(0, (self.paths, -1)))


@MODELS.register_module()
class SelectiveScan2D(DerivedWeights):
    """Mix the cells of a map by selective scans along one or more paths; a drop-in replacement for a convolution.

    A projection, a depthwise convolution and SiLU come first. Then every path has a scan with its own delta, A, B, C
    and D; all of them read the same map through index maps. Sum, norm, gate and a projection follow. The sum is float32
    also under autocast, as far as the norm's weights allow: in half precision it may overflow.

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
        stacked: Keep the projections of the paths as ``x_proj_weight`` and ``dt_projs_weight``, whose first axis is the
            paths; False for matrices ``x_proj.weight`` and ``dt_projs.weight``, the paths one below the other, as later
            files of VMamba have them. Weights in either form load into either. Defaults to True.

    Raises:
        ValueError: If ``paths`` is empty or names an unknown order, or ``d_conv`` is even.

    Examples:
        >>> import torch
        >>> layer = SelectiveScan2D(embed_dims=8, paths=('row', 'col_reverse'), d_state=4)
        >>> layer(torch.randn(2, 8, 5, 9)).shape
        torch.Size([2, 8, 5, 9])
    """

    scan_operator: ClassVar[str] = 'mmvim::selective_scan'  # what a count of FLOPs must have found
    combine: ClassVar[str] = 'sum'  # what the scan does with the outputs of the paths
    x_proj_weight: nn.Parameter
    dt_projs_weight: nn.Parameter

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
        stacked: bool = True,
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
        self.stacked = stacked
        for name, layers in (('x_proj', projections), ('dt_projs', steps)):
            weight = torch.stack([layer.weight.detach() for layer in layers])  # (paths, out, in)
            if stacked:
                self.register_parameter(f'{name}_weight', nn.Parameter(weight))
            else:
                self.add_module(name, PathLinear(weight))
        self.dt_projs_bias = mark_no_weight_decay(nn.Parameter(torch.stack([layer.bias.detach() for layer in steps])))
        self.A_logs = init_a_log(count * self.d_inner, d_state)
        self.Ds = init_skip(count * self.d_inner)
        self.out_norm = build_norm(norm_cfg or {'type': 'LN', 'eps': 1e-5}, self.d_inner)
        self.out_proj = nn.Linear(self.d_inner, embed_dims, bias=False)
        self._register_load_state_dict_pre_hook(self._restack)

    def _restack(self, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
        """Bring the projections in a state dict into the form that this layer has."""
        for name in ('x_proj', 'dt_projs'):
            stacked, flat = f'{prefix}{name}_weight', f'{prefix}{name}.weight'
            if self.stacked and flat in state_dict:
                weight = state_dict.pop(flat)
                rows = len(self.paths) if len(weight) % len(self.paths) == 0 else 1  # a misfit is for PyTorch to report
                state_dict[stacked] = weight.unflatten(0, (rows, -1))
            elif not self.stacked and stacked in state_dict:
                state_dict[flat] = state_dict.pop(stacked).flatten(0, 1)

    def derive(self) -> dict[str, Tensor]:
        """See the base class."""
        return {'A': -torch.exp(self.A_logs.float()).unflatten(0, (len(self.paths), -1))}  # (paths, d_inner, d_state)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map (B, embed_dims, H, W); same shape out."""
        height, width = x.shape[2:]
        x = self.in_proj(x.permute(0, 2, 3, 1))  # (B, C, H, W) -> (B, H, W, d_inner or 2 * d_inner)
        x, z = x.chunk(2, dim=-1) if self.gate else (x, None)
        u = F.silu(self.conv2d(x.permute(0, 3, 1, 2))).flatten(2)  # (B, d_inner, H * W), raster order
        delta, b, c = self.scan_inputs(u, height, width)
        count = len(self.paths)
        y = selective_scan_paths(
            u,
            delta,
            self.derived()['A'],  # (paths, d_inner, d_state)
            b,
            c,
            self.Ds.float().unflatten(0, (count, -1)),  # (paths, d_inner)
            delta_bias=self.dt_projs_bias.float(),
            delta_softplus=True,
            paths=scan_paths(self.paths, height, width, device=x.device),
            combine=self.combine,
            out_dtype=torch.promote_types(u.dtype, torch.float32),
            backend=self.scan_backend,
        )
        y = self.join(y)
        y = self.out_norm(y.transpose(1, 2).to(dtype_of(self.out_norm, u.dtype))).to(u.dtype)  # (B, L, d_inner)
        y = y.unflatten(1, (height, width))  # (B, H, W, d_inner)
        return self.out_proj(y if z is None else y * F.silu(z)).permute(0, 3, 1, 2)  # (B, C, H, W)

    def scan_inputs(self, u: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Compute delta, B and C of every path.

        Args:
            u: (B, d_inner, L), raster order.
            height: Rows of the map.
            width: Columns of the map.

        Returns:
            (B, paths, d_inner, L), (B, paths, d_state, L) and (B, paths, d_state, L). A subclass may return tensors
            without an axis for the paths, which all of them share.
        """
        # The projections are pointwise, so they commute with the scan order and run on the map as it is.
        projected = project(u, self.x_proj_weight) if self.stacked else self.x_proj(u)  # (B, paths, out, L)
        dt, b, c = projected.split([self.dt_rank, self.d_state, self.d_state], dim=2)
        delta = project(dt, self.dt_projs_weight) if self.stacked else self.dt_projs(dt)
        return delta, b, c

    def join(self, y: Tensor) -> Tensor:
        """Make one map of what the scan has returned, for a subclass with another ``combine``.

        Args:
            y: (B, d_inner, L); with ``combine = 'stack'`` (B, paths, d_inner, L).

        Returns:
            (B, d_inner, L).
        """
        return y
