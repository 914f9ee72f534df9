"""Layers that VMamba and its relatives share: blocks, stages and what lies between them.

Cells are (B, H, W, C), maps (B, C, H, W). The parameters have the names that the published checkpoints of all of them
have. 'VMamba: Visual State Space Model', Liu et al., NeurIPS 2024, https://arxiv.org/abs/2401.10166; written from the
paper and from recorded outputs.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmvim.models.layers.mlp import Mlp
from mmvim.models.layers.recompute import recompute


class Permute(nn.Module):
    """Reorder the axes of a map.

    Examples:
        >>> import torch
        >>> Permute(0, 2, 3, 1)(torch.randn(1, 8, 3, 5)).shape
        torch.Size([1, 3, 5, 8])
    """

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """Return a view of x."""
        return x.permute(self.axes)


class PatchMerging(nn.Module):
    """Put the four cells of each 2 x 2 square into the channels of one; odd sides are padded with zeros.

    Examples:
        >>> import torch
        >>> PatchMerging()(torch.randn(1, 7, 10, 8)).shape
        torch.Size([1, 4, 5, 32])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 4 C)."""
        height, width = x.shape[1:3]
        rows, cols = (
            (height + 1) // 2,
            (width + 1) // 2,
        )  # no remainders: they make traced sizes long
        x = F.pad(x, (0, 0, 0, 2 * cols - width, 0, 2 * rows - height))
        # The published order: down before right.
        return torch.cat([x[:, row::2, col::2] for col in (0, 1) for row in (0, 1)], dim=-1)


class VSSBlock(nn.Module):
    """A mixer of cells (``op``) and, unless ``mlp_ratio`` is 0, an MLP; each pre-normed and residual.

    Args:
        dim: Channels.
        op: The mixer, on maps (B, C, H, W), such as :class:`mmvim.SelectiveScan2D`.
        mlp_ratio: Hidden channels of the MLP over ``dim``; 0 for no MLP.
        drop_path_rate: Stochastic depth rate.

    Examples:
        >>> import torch
        >>> from mmvim.models import SelectiveScan2D
        >>> VSSBlock(8, SelectiveScan2D(8), mlp_ratio=4, drop_path_rate=0.0)(torch.randn(1, 3, 5, 8)).shape
        torch.Size([1, 3, 5, 8])
    """

    def __init__(self, dim: int, op: nn.Module, mlp_ratio: float, drop_path_rate: float) -> None:
        super().__init__()
        self.norm, self.op = nn.LayerNorm(dim), op
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim) if mlp_ratio else None
        self.mlp = Mlp(dim, int(dim * mlp_ratio)) if mlp_ratio else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        y = self.op(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, H, W, C) -> (B, C, H, W), and back
        x = x + self.drop_path(y)
        if self.mlp is not None and self.norm2 is not None:
            x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class Stage(nn.Module):
    """Blocks of one resolution, and the way to the next.

    Args:
        blocks: Blocks that take maps (B, H, W, C).
        downsample: Layer to the next stage; None for the last.

    Examples:
        >>> import torch
        >>> Stage([Mlp(8, 16)], downsample=None)(torch.randn(1, 3, 5, 8), with_cp=False).shape
        torch.Size([1, 3, 5, 8])
    """

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor, with_cp: bool) -> Tensor:
        """Run the blocks on (B, H, W, C), same shape out.

        Args:
            x: The map.
            with_cp: Recompute each block in the backward pass.

        Returns:
            The map after the blocks, before the downsampling.
        """
        for block in self.blocks:
            x = recompute(block, block, x) if with_cp and x.requires_grad else block(x)
        return x


class Merging(nn.Module):
    """Half as many cells each way, rounded up, of twice the channels.

    Examples:
        >>> import torch
        >>> Merging(8)(torch.randn(1, 7, 10, 8)).shape
        torch.Size([1, 4, 5, 16])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.merge, self.norm = PatchMerging(), nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        return self.reduction(self.norm(self.merge(x)))


def to_cells() -> Permute:
    """Return the layer from a map (B, C, H, W) to cells (B, H, W, C).

    Examples:
        >>> import torch
        >>> to_cells()(torch.randn(1, 8, 3, 5)).shape
        torch.Size([1, 3, 5, 8])
    """
    return Permute(0, 2, 3, 1)


def patch_stem(in_channels: int, dim: int) -> nn.Sequential:
    """Build the stem of VMamba's first release: pictures (B, in_channels, H, W) to cells (B, H // 4, W // 4, dim).

    Args:
        in_channels: Channels of the picture.
        dim: Channels of the cells.

    Returns:
        A convolution of 4 x 4 (0) and a LayerNorm (2).

    Examples:
        >>> import torch
        >>> patch_stem(3, 8)(torch.randn(1, 3, 16, 23)).shape
        torch.Size([1, 4, 5, 8])
    """
    return nn.Sequential(nn.Conv2d(in_channels, dim, 4, 4), to_cells(), nn.LayerNorm(dim))
