"""Absolute and rotary position embeddings on grids of any size."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_grid(grid: Tensor, src: tuple[int, int], dst: tuple[int, int]) -> Tensor:
    """Resample embeddings (1, h * w, C) of a raster grid `src` = (h, w) bicubically to `dst`, in float32.

    Cell centres are aligned (``align_corners=False``), so that a cell keeps its place in the picture.
    """
    if src == dst:
        return grid
    maps = grid.reshape(1, *src, -1).permute(0, 3, 1, 2).float()
    maps = F.interpolate(maps, size=dst, mode='bicubic', align_corners=False)
    return maps.flatten(2).transpose(1, 2).to(grid.dtype)


def split_rows(tokens: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Split tokens (B, L, C) into those of the grid and those at `rows` (B, len(rows), C), both in order."""
    if not rows:
        return tokens, tokens[:, :0]
    edges = [-1, *rows, tokens.shape[1]]
    grid = torch.cat([tokens[:, a + 1 : b] for a, b in itertools.pairwise(edges)], dim=1)
    return grid, torch.cat([tokens[:, row : row + 1] for row in rows], dim=1)


def insert_rows(tokens: Tensor, extra: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
    """Put token `extra[i]` (B, 1, C) at place `rows[i]` of the result; `rows` ascend. The inverse of `split_rows`."""
    parts, start = [], 0
    for place, (token, row) in enumerate(zip(extra, rows, strict=True)):
        stop = row - place  # tokens of the grid before this row
        parts += [tokens[:, start:stop], token]
        start = stop
    return torch.cat([*parts, tokens[:, start:]], dim=1) if parts else tokens


def rope_tables(
    height: int, width: int, dims: int, pt_size: int, class_rows: Sequence[int] = (), device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the 2-D rotary embedding of Vim's dense models, for a grid of any size.

    Half of the channels turn with the row, half with the column, in pairs (2i, 2i + 1) at frequency
    ``10000 ** (-4i / dims)`` (https://arxiv.org/abs/2104.09864, Sec. 3.4.2; in two dimensions as in EVA,
    https://arxiv.org/abs/2303.11331). Positions are scaled to the `pt_size` x `pt_size` grid of the pre-training, so
    that a larger grid spans the same angles.

    Args:
        height, width: The grid.
        dims: Channels, a multiple of 4.
        pt_size: Side of the pre-training grid.
        class_rows: Places of class tokens in the sequence; they are not rotated. Defaults to ().
        device: Where the tables live. Defaults to None, the CPU.

    Returns:
        Two float32 tensors (height * width + len(class_rows), dims).

    Raises:
        ValueError: If `dims` is not a multiple of 4.
    """
    if dims % 4:
        raise ValueError(f'rotary embedding needs embed_dims divisible by 4, got {dims}')
    half = dims // 2
    frequency = 10000 ** (-torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
    angles = []
    for size in (height, width):
        position = torch.arange(size, dtype=torch.float32, device=device) / size * pt_size
        angles.append(torch.outer(position, frequency).repeat_interleave(2, dim=1))  # (size, half)
    rows = angles[0][:, None].expand(height, width, half)
    cols = angles[1][None].expand(height, width, half)
    angle = torch.cat([rows, cols], dim=-1).reshape(1, height * width, dims)
    still = angle.new_zeros(1, 1, dims)
    angle = insert_rows(angle, [still] * len(class_rows), class_rows)[0]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each channel pair (2i, 2i + 1) of tokens (B, L, C) by the angles of `rope_tables`, in x's dtype."""
    pairs = x.unflatten(-1, (-1, 2))
    turned = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
    return (x * cos + turned * sin).to(x.dtype)
