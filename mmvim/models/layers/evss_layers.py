"""The blocks and stages of EfficientVMamba.

Cells are (B, H, W, C), maps (B, C, H, W). The parameters have the names of the published checkpoints.
'EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba', Pei et al., AAAI 2025,
https://arxiv.org/abs/2403.09977; written from the paper and from recorded outputs.

PyTorch's batch norm computes wrong gradients on CPUs if exactly one of its input and its output's gradient is laid out
as the cells of a single picture are. Therefore a map that is made of cells here is made contiguous, and so is the
gradient of a map that becomes cells.
"""

from collections.abc import Sequence

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmvim.models.layers.channel_attention import ChannelGate, SqueezeExcite
from mmvim.models.layers.recompute import recompute


class ToMap(nn.Module):
    """Turn cells into a contiguous map.

    Examples:
        >>> import torch
        >>> x = ToMap()(torch.randn(1, 3, 5, 8))
        >>> x.shape, x.is_contiguous()
        (torch.Size([1, 8, 3, 5]), True)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, C, H, W)."""
        return x.permute(0, 3, 1, 2).contiguous()


class ToCells(nn.Module):
    """Turn a map into cells, without a copy; the gradient of the map is contiguous.

    Examples:
        >>> import torch
        >>> ToCells()(torch.randn(1, 8, 3, 5)).shape
        torch.Size([1, 3, 5, 8])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, H, W, C)."""
        x = x.unsqueeze(0).select(0, 0)  # changes nothing but that the gradient is written into a new tensor
        return x.permute(0, 2, 3, 1)


class EVSSBlock(nn.Module):
    """A mixer of cells (``op``) and a branch of convolutions, added up behind one shared gate; pre-normed and residual.

    Args:
        dim: Channels.
        op: The mixer, on maps (B, C, H, W), such as :class:`mmvim.ES2D`.
        drop_path_rate: Stochastic depth rate, of both branches together.

    Examples:
        >>> import torch
        >>> from mmvim.models import ES2D
        >>> EVSSBlock(8, ES2D(8), drop_path_rate=0.0)(torch.randn(1, 3, 5, 8)).shape
        torch.Size([1, 3, 5, 8])
    """

    def __init__(self, dim: int, op: nn.Module, drop_path_rate: float) -> None:
        super().__init__()
        self.norm, self.op = nn.LayerNorm(dim), op
        self.conv_branch = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.BatchNorm2d(dim), nn.GELU(), nn.Conv2d(dim, dim, 1)
        )
        self.se = ChannelGate(dim)
        self.to_map, self.to_cells = ToMap(), ToCells()
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        y = self.norm(x)
        scanned = self.op(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, H, W, C) -> (B, C, H, W), and back
        convolved = self.to_cells(self.conv_branch(self.to_map(y)))
        # Stacked, so that the gate that both share is called once.
        gated = self.se(torch.stack((scanned, convolved)))  # (2, B, H, W, C)
        return x + self.drop_path(gated.sum(0))


class InvertedResidual(nn.Module):
    """Widen a map, convolve each channel, squeeze and excite, narrow it again; residual.

    Args:
        dim: Channels.
        drop_path_rate: Stochastic depth rate.
        expand: Channels in between over ``dim``. Defaults to 4.

    Examples:
        >>> import torch
        >>> InvertedResidual(8, drop_path_rate=0.0)(torch.randn(1, 8, 3, 5)).shape
        torch.Size([1, 8, 3, 5])
    """

    def __init__(self, dim: int, drop_path_rate: float, expand: int = 4) -> None:
        super().__init__()
        wide = expand * dim
        self.conv_pw = nn.Sequential(nn.Conv2d(dim, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
        self.conv_dw = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU()
        )
        self.se = SqueezeExcite(wide, max(wide // 8, 1))
        self.conv_pw2 = nn.Sequential(nn.Conv2d(wide, dim, 1, bias=False), nn.BatchNorm2d(dim))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.drop_path(self.conv_pw2(self.se(self.conv_dw(self.conv_pw(x)))))


class ConvStage(nn.Sequential):
    """Blocks of one resolution that work on maps, and the way to the next; a :class:`Stage` of convolutions.

    As in the published files the blocks have the numbers 1, 2 and so on, and the downsampling is last.

    Args:
        blocks: Blocks that take maps (B, C, H, W).
        downsample: Layer to the next stage, on cells; None for the last.

    Examples:
        >>> import torch
        >>> from mmvim.models.layers.vss_layers import Merging
        >>> stage = ConvStage([InvertedResidual(8, 0.0)], downsample=Merging(8))
        >>> stage(torch.randn(1, 3, 5, 8), with_cp=False).shape, [name for name, _ in stage.named_children()]
        (torch.Size([1, 3, 5, 8]), ['0', '1', '2', '3'])
    """

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__(ToMap(), *blocks, ToCells(), *(() if downsample is None else (downsample,)))
        self.depth = len(blocks)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks alone."""
        return list(self)[1 : self.depth + 1]

    @property
    def downsample(self) -> nn.Module | None:
        """The layer to the next stage."""
        return self[-1] if len(self) > self.depth + 2 else None

    def forward(self, x: Tensor, with_cp: bool) -> Tensor:  # type: ignore[override]
        """Run the blocks on (B, H, W, C), same shape out.

        Args:
            x: The cells.
            with_cp: Recompute each block in the backward pass.

        Returns:
            The cells after the blocks, before the downsampling.
        """
        x = self[0](x)  # (B, C, H, W)
        for block in self.blocks:
            x = recompute(block, block, x) if with_cp and x.requires_grad else block(x)
        return self[self.depth + 1](x)
