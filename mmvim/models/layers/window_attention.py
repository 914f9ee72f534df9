"""Square windows of a map as rows of tokens, and plain multi-head attention within them."""

import torch.nn.functional as F
from torch import Tensor, nn


def split_windows(x: Tensor, window_size: int) -> tuple[Tensor, tuple[int, int]]:
    """Pad (B, C, H, W) with zeros at its bottom and right, and cut it into windows.

    Args:
        x: The map.
        window_size: Side of a window, in cells.

    Returns:
        Tokens (B * windows, window_size ** 2, C), windows and the tokens inside each in raster order, and the padded
        (H, W).

    Examples:
        >>> import torch
        >>> tokens, size = split_windows(torch.randn(2, 8, 5, 9), 4)
        >>> tokens.shape, size
        (torch.Size([12, 16, 8]), (8, 12))
    """
    batch, channels, height, width = x.shape
    # Without remainders: they make traced sizes so long that a compilation takes ten times as long
    rows, cols = (height + window_size - 1) // window_size, (width + window_size - 1) // window_size
    x = F.pad(x, (0, cols * window_size - width, 0, rows * window_size - height))
    x = x.reshape(batch, channels, rows, window_size, cols, window_size)  # (B, C, rows, S, cols, S)
    x = x.permute(0, 2, 4, 3, 5, 1)  # (B, rows, cols, S, S, C)
    tokens = x.reshape(batch * rows * cols, window_size**2, channels)  # (B * windows, S * S, C)
    return tokens, (rows * window_size, cols * window_size)


def merge_windows(tokens: Tensor, window_size: int, size: tuple[int, int]) -> Tensor:
    """Put the tokens of :func:`split_windows` back into a map.

    Args:
        tokens: (B * windows, window_size ** 2, C).
        window_size: Side of a window, in cells.
        size: The padded (H, W) that :func:`split_windows` returned.

    Returns:
        (B, C, *size).

    Examples:
        >>> import torch
        >>> x = torch.randn(2, 8, 5, 9)
        >>> tokens, size = split_windows(x, 4)
        >>> torch.equal(merge_windows(tokens, 4, size)[:, :, :5, :9], x)
        True
    """
    rows, cols, channels = size[0] // window_size, size[1] // window_size, tokens.shape[-1]
    x = tokens.reshape(-1, rows, cols, window_size, window_size, channels)  # (B, rows, cols, S, S, C)
    x = x.permute(0, 5, 1, 3, 2, 4)  # (B, C, rows, S, cols, S)
    return x.reshape(-1, channels, *size)  # (B, C, H, W)


class WindowAttention(nn.Module):
    """Multi-head self-attention over all tokens of a window (https://arxiv.org/abs/1706.03762, Sec. 3.2.2).

    Args:
        dim: Channels of a token.
        num_heads: Heads, a divisor of ``dim``.

    Raises:
        ValueError: If ``num_heads`` does not divide ``dim``.

    Examples:
        >>> import torch
        >>> WindowAttention(8, num_heads=2)(torch.randn(12, 16, 8)).shape
        torch.Size([12, 16, 8])
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'num_heads={num_heads} must divide the {dim} channels')
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, L, C) to the same shape."""
        batch, length, channels = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, channels // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, L, C / heads)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(batch, length, channels))  # (B, L, heads, C / heads) -> (B, L, C)
