"""Patch embedding for images of any size."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmvim.ops.define import is_watched


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each (https://arxiv.org/abs/2010.11929, Sec. 3.1).

    If the patches do not tile an image, it is padded with zeros at its bottom and right, just enough that every pixel
    lies in a patch. mmcv's ``AdaptivePadding`` is not used: it makes ceil(size / stride) patches, one more than the
    published models with overlapping patches have (27 x 27 at 224 pixels, patch 16, stride 8).

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of a token.
        patch_size: Side of a patch in pixels, int or (height, width).
        stride: Distance between patches in pixels, int or (height, width); below ``patch_size`` patches overlap.

    Raises:
        ValueError: If ``stride`` is not between 1 and ``patch_size``.

    Examples:
        >>> import torch
        >>> tokens, grid = PatchEmbed(3, 8, patch_size=16, stride=16)(torch.randn(2, 3, 64, 50))
        >>> tokens.shape, grid
        (torch.Size([2, 16, 8]), (4, 4))
    """

    def __init__(
        self, in_channels: int, embed_dims: int, patch_size: int | tuple[int, int], stride: int | tuple[int, int]
    ) -> None:
        super().__init__()
        self.patch_size, self.stride = _pair(patch_size), _pair(stride)
        if any(not 1 <= s <= p for s, p in zip(self.stride, self.patch_size, strict=True)):
            raise ValueError(f'stride={stride} must lie between 1 and patch_size={patch_size}, or pixels are skipped')
        self.proj = nn.Conv2d(in_channels, embed_dims, kernel_size=self.patch_size, stride=self.stride)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches that cover an image of ``height`` x ``width`` pixels."""
        rows, cols = (
            max(-(-(size - patch) // stride), 0) + 1
            for size, patch, stride in zip((height, width), self.patch_size, self.stride, strict=True)
        )
        return rows, cols

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map an image (B, in_channels, H, W) to tokens (B, h * w, embed_dims) in raster order, and (h, w)."""
        height, width = x.shape[2:]
        h, w = self.grid(height, width)
        bottom = (h - 1) * self.stride[0] + self.patch_size[0] - height
        right = (w - 1) * self.stride[1] + self.patch_size[1] - width
        if is_watched() or bottom or right:  # a traced size must not be asked; without need, the image is not copied
            x = F.pad(x, (0, right, 0, bottom))
        return self.proj(x).flatten(2).transpose(1, 2), (h, w)  # (B, C, h, w) -> (B, C, h * w) -> (B, h * w, C)
