"""The plain vision transformer that benchmark_backbone.py compares with, with PyTorch's own layers.

DeiT (Touvron et al., https://arxiv.org/abs/2012.12877, Tab. 1): patches of 16, 12 blocks, heads of 64 channels, an MLP
four times as wide, a class token and learned positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention over tokens (B, L, C) with heads of 64 channels.

    Args:
        dim: C.
        fused: Use ``scaled_dot_product_attention``; otherwise all products of queries and keys are kept in memory.
    """

    def __init__(self, dim: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = dim // 64, fused
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens (B, L, C); same shape out."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, 64)).permute(2, 0, 3, 1, 4)  # (B, heads, L, 64) each
        y = F.scaled_dot_product_attention(q, k, v) if self.fused else (q * 64**-0.5 @ k.mT).softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).flatten(2))  # (B, L, C)


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and with a residual connection.

    Args:
        dim: Channels of a token.
        fused: See :class:`Attention`.
    """

    def __init__(self, dim: int, fused: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attention = Attention(dim, fused)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Apply both to tokens (B, L, C); same shape out."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DeiT(nn.Module):
    """A feature extractor for square images.

    Args:
        side: Pixels; what does not fill a whole patch is cut off.
        dim: Channels of a token, 192 (DeiT-T) or 384 (DeiT-S).
        fused: See :class:`Attention`.
        depth: Blocks. Defaults to 12.
        channels: Of the images. Defaults to 3.
    """

    def __init__(self, side: int, dim: int, fused: bool, depth: int = 12, channels: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, 16, 16)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, (side // 16) ** 2 + 1, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, fused) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, channels, side, side) to features (B, side // 16, side // 16, dim) without the class token."""
        x = self.patches(x)  # (B, dim, h, w)
        size = x.shape[2:]
        x = (
            torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).mT], dim=1) + self.positions
        )  # (B, 1 + hw, dim)
        return self.norm(self.blocks(x))[:, 1:].unflatten(1, size)  # (B, h, w, dim)
