"""The atrous selective scan as a layer on maps.

ES2D of EfficientVMamba (Pei et al., https://arxiv.org/abs/2403.09977, Sec. 4.1); the parameters have the names of its
published checkpoints. Written from the paper and from recorded outputs.
"""

import torch
from torch import Tensor

from mmvim.models.layers.selective_scan_2d import SelectiveScan2D
from mmvim.models.layers.sizes import known_true
from mmvim.registry import MODELS


def split_grids(x: Tensor, height: int, width: int, step: int) -> Tensor:
    """Deal the cells of a map out to ``step * step`` grids, each of every ``step``-th cell of every ``step``-th row.

    Args:
        x: Cells (B, H * W, C), raster order.
        height: Rows of the map, H.
        width: Columns of the map, W.
        step: Cells from one to the next of a grid.

    Returns:
        (step * step, B, ceil(H / step), ceil(W / step), C): grid k begins at row ``k % step`` and column ``k // step``.
        Where a grid reaches beyond the map it has the cells of the edge, so that it can be any size.

    Examples:
        >>> x = torch.arange(6.0).reshape(1, 6, 1)  # rows 0 1 2 and 3 4 5
        >>> split_grids(x, 2, 3, step=2).flatten(1).tolist()
        [[0.0, 2.0], [3.0, 5.0], [1.0, 2.0], [4.0, 5.0]]
    """
    h, w = (height + step - 1) // step, (width + step - 1) // step  # of a grid
    if not _divides(step, height, width):
        t = torch.arange(h * step * w * step, device=x.device)
        i, j = (t // (w * step)).clamp(max=height - 1), (t % (w * step)).clamp(max=width - 1)
        x = x.index_select(1, i * width + j)  # (B, h * step * w * step, C)
    x = x.unflatten(1, (h, step, w, step))  # (B, h, row, w, column, C)
    return x.permute(4, 2, 0, 1, 3, 5).flatten(0, 1)  # (column, row, B, h, w, C) -> (step * step, B, h, w, C)


def merge_grids(x: Tensor, height: int, width: int) -> Tensor:
    """Put the grids of :func:`split_grids` back together, without what lies beyond the map.

    Args:
        x: (step * step, B, ceil(H / step), ceil(W / step), C).
        height: Rows of the map, H.
        width: Columns of the map, W.

    Returns:
        (B, H * W, C), raster order.

    Examples:
        >>> x = torch.randn(2, 5 * 7, 4)
        >>> torch.equal(merge_grids(split_grids(x, 5, 7, step=3), 5, 7), x)
        True
    """
    step = round(len(x) ** 0.5)
    across = x.shape[3] * step
    x = x.unflatten(0, (step, step)).permute(2, 3, 1, 4, 0, 5)  # (column, row, B, h, w, C) -> (B, h, row, w, column, C)
    x = x.flatten(1, 4)  # (B, h * step * w * step, C)
    if _divides(step, height, width):
        return x
    t = torch.arange(height * width, device=x.device)
    return x.index_select(1, t // width * across + t % width)


def _divides(step: int, height: int, width: int) -> bool:
    """Return whether both sides are known to be multiples of ``step``.

    They may be symbolic, where slices and padding would make conditions of an exported graph out of them. Therefore a
    map that does not divide, or may not, is read through indices.
    """
    return known_true(height % step == 0) and known_true(width % step == 0)


@MODELS.register_module()
class ES2D(SelectiveScan2D):
    """Mix the cells of a map by selective scans of grids that skip cells; a drop-in replacement for a convolution.

    The map is dealt out to ``step * step`` grids of every ``step``-th cell of every ``step``-th row, and each has a
    scan with its own delta, A, B, C and D: every cell belongs to one sequence, of a ``step * step``-th of the map. What
    comes before and after is as in :class:`mmvim.SelectiveScan2D`. The result is that of
    ``SelectiveScan2D(embed_dims, paths=('atrous2_1', 'atrous2_2', 'atrous2_3', 'atrous2_4'))`` with the same weights,
    which however projects each cell for every path; here it is projected for its own alone.

    Grids that begin in an even row are scanned row by row, the others column by column, and none of them backwards. On
    a side that ``step`` does not divide, the smaller grids go on with zeros after the convolution: their states decay.

    Args:
        embed_dims: Channels of the map.
        step: Cells from one to the next of a grid. Defaults to 2.
        d_state: States of a channel. Defaults to 16.
        expand: Inner channels over ``embed_dims``. Defaults to 2.
        dt_rank: Rank of the projection to delta. Defaults to 'auto', ``ceil(embed_dims / 16)``.
        d_conv: Side of the depthwise convolution, odd; 1 leaves it out. Defaults to 3.
        norm_cfg: Norm of the scans' outputs, over channels last. Defaults to ``dict(type='LN')``, eps 1e-5.
        scan_backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.

    Raises:
        ValueError: If ``step`` is not a positive int, or ``d_conv`` is even.

    Examples:
        >>> layer = ES2D(embed_dims=8, step=3, d_state=4)
        >>> layer.x_proj_weight.shape, layer(torch.randn(2, 8, 5, 9)).shape
        (torch.Size([9, 9, 16]), torch.Size([2, 8, 5, 9]))
    """

    def __init__(
        self,
        embed_dims: int,
        step: int = 2,
        d_state: int = 16,
        expand: float = 2,
        dt_rank: int | str = 'auto',
        d_conv: int = 3,
        norm_cfg: dict | None = None,
        scan_backend: str | None = None,
    ) -> None:
        if not isinstance(step, int) or step < 1:
            raise ValueError(f'step={step!r} must be a positive int; 1 scans the map as it is, row by row')
        super().__init__(
            embed_dims,
            paths=tuple(f'atrous{step}_{k}' for k in range(1, step * step + 1)),
            d_state=d_state,
            expand=expand,
            dt_rank=dt_rank,
            d_conv=d_conv,
            norm_cfg=norm_cfg,
            scan_backend=scan_backend,
        )
        self.step = step

    def scan_inputs(self, u: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Compute delta (B, d_inner, L), B and C (B, d_state, L): of each cell those of the path that visits it."""
        # (B, d_inner, L) -> (B, L, d_inner) -> (paths, B, h, w, d_inner)
        grids = split_grids(u.transpose(1, 2), height, width, self.step)
        sizes = grids.shape[1:4]
        # A product of matrices for each path. What it makes of cells beyond the map is left out in merging.
        projected = grids.flatten(1, 3) @ self.x_proj_weight.mT  # (paths, B * h * w, out)
        dt, bc = projected.split([self.dt_rank, 2 * self.d_state], dim=2)
        delta, bc = (
            merge_grids(y.unflatten(1, sizes), height, width).transpose(1, 2)
            for y in (dt @ self.dt_projs_weight.mT, bc)
        )  # (paths, B * h * w, channels) -> (B, channels, L)
        b, c = bc.chunk(2, dim=1)
        return delta, b, c
