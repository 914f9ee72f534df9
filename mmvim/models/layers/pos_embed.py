"""Absolute and rotary position embeddings on grids of any size."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmvim.models.layers.sizes import known_true
from mmvim.ops.define import autocast_dtype, without_autocast


def cubic(x: Tensor) -> Tensor:
    """Return the weight of a cell at distance ``x`` >= 0 in PyTorch's bicubic resizing.

    The kernel of Keys, 'Cubic convolution interpolation for digital image processing', 1981, with A = -0.75.

    Examples:
        >>> import torch
        >>> cubic(torch.tensor([0.0, 0.5, 1.5])).tolist()
        [1.0, 0.59375, -0.09375]
    """
    return torch.where(x < 1, (1.25 * x - 2.25) * x * x + 1, -0.75 * (x - 1) * (2 - x).clamp(min=0).square())


def linear(x: Tensor) -> Tensor:
    """Return the weight of a cell at distance ``x`` >= 0 in bilinear resizing.

    Examples:
        >>> import torch
        >>> linear(torch.tensor([0.0, 0.25, 1.0, 1.5])).tolist()
        [1.0, 0.75, 0.0, 0.0]
    """
    return (1 - x).clamp(min=0)


def resize_matrix(
    old: int,
    new: int,
    kernel: Callable[[Tensor], Tensor] = cubic,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """Return the weights with which ``F.interpolate(align_corners=False)`` resizes one axis.

    New cell ``i`` lies at ``(i + 0.5) * old / new - 0.5`` among the old cells; beyond the border the outermost cell is
    repeated. The sizes may be symbolic, and nothing is copied to the device: the matrix can be traced, exported and
    captured in a CUDA graph.

    Args:
        old: Cells before.
        new: Cells after.
        kernel: :func:`cubic` or :func:`linear`. Defaults to :func:`cubic`.
        dtype: float32 or float64. Defaults to float32.
        device: Where the matrix lives. Defaults to None, the CPU.

    Returns:
        Weights (new, old); each row sums to 1.

    Examples:
        >>> resize_matrix(2, 4, linear).tolist()
        [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
        >>> torch.equal(resize_matrix(3, 3), torch.eye(3))
        True
    """
    # Positions are fractions over 2 * new, in integers, so that float32 rounds them only once.
    position = torch.arange(new, device=device) * (2 * old) + (old - new)
    rest = position % (2 * new)
    taps = torch.arange(-1, 3, device=device)  # two cells on each side
    weight = kernel((rest.to(dtype)[:, None] / (2 * new) - taps).abs())  # (new, 4)
    cell = (((position - rest) // (2 * new))[:, None] + taps).clamp(0, old - 1)  # (new, 4)
    return (weight[..., None] * (cell[..., None] == torch.arange(old, device=device))).sum(1)  # (new, 4, old) summed


def resize_grid(grid: Tensor, src: tuple[int, int], dst: tuple[int, int]) -> Tensor:
    """Resample embeddings (1, h * w, C) of a raster grid ``src`` = (h, w) bicubically to ``dst``, in float32 or wider.

    Cell centres are aligned (``align_corners=False``), so that a cell keeps its place in the picture. Two matrix
    products do it: they are deterministic on every device, and neither compiler nor exporter sees an interpolation.

    Examples:
        >>> import torch
        >>> resize_grid(torch.ones(1, 2 * 3, 8), (2, 3), (4, 5)).shape
        torch.Size([1, 20, 8])
    """
    if _same(src, dst):
        return grid
    device = grid.device
    if autocast_dtype(grid) is not None:  # it would run the products in half precision
        with without_autocast(grid):
            return resize_grid(grid, src, dst)
    dtype = torch.promote_types(grid.dtype, torch.float32)
    down, across = (resize_matrix(old, new, cubic, dtype, device) for old, new in zip(src, dst, strict=True))
    rows = down @ grid.to(dtype).reshape(src[0], -1)  # (H, h) @ (h, w * C)
    cells = across @ rows.reshape(dst[0], src[1], -1)  # (W, w) @ (H, w, C)
    return cells.reshape(1, dst[0] * dst[1], -1).to(grid.dtype)  # (1, H * W, C)


def _same(src: tuple[int, int], dst: tuple[int, int]) -> bool:
    """Compare grids without a guard: a graph of symbolic sizes must stay valid where they happen to be equal."""
    return all(known_true(old == new) for old, new in zip(src, dst, strict=True))


def class_rows(kind: str, patches: int) -> tuple[int, ...]:
    """Return the places of class tokens of a ``kind`` in a sequence of ``patches`` patches.

    Examples:
        >>> class_rows('middle', 196), class_rows('double', 196), class_rows('none', 196)
        ((98,), (0, 197), ())
    """
    return {'none': (), 'head': (0,), 'middle': (patches // 2,), 'double': (0, patches + 1)}[kind]


def fit_positions(
    positions: Tensor, src: tuple[int, int], dst: tuple[int, int], rows: Sequence[int], new_rows: Sequence[int]
) -> Tensor:
    """Resize learned positions to another grid, and move those of the class tokens to their new places.

    Args:
        positions: (1, h * w + len(rows), C).
        src: Their grid (h, w).
        dst: The new grid (H, W).
        rows: Places of the class tokens' positions.
        new_rows: Their places in the result; () drops them.

    Returns:
        Positions (1, H * W + len(new_rows), C); ``positions`` itself if nothing changes.

    Examples:
        >>> import torch
        >>> fit_positions(torch.zeros(1, 14 * 14 + 1, 8), (14, 14), (20, 30), (98,), ()).shape
        torch.Size([1, 600, 8])
    """
    if _same(src, dst) and tuple(rows) == tuple(new_rows):
        return positions
    grid, extra = split_rows(positions, rows)
    return insert_rows(resize_grid(grid, src, dst), extra.split(1, dim=1)[: len(new_rows)], new_rows)


def read_grid(record: Tensor, positions: int) -> tuple[int, int] | None:
    """Return the (rows, columns) in a record of a grid, or None if it is not the grid of so many positions.

    Examples:
        >>> import torch
        >>> read_grid(torch.tensor([4, 16]), 64), read_grid(torch.tensor([4, 16]), 65)
        ((4, 16), None)
    """
    if record.numel() != 2:
        return None
    rows, columns = (int(side) for side in record.flatten().tolist())
    return (rows, columns) if rows > 0 and columns > 0 and rows * columns == positions else None


def square_grid(positions: int) -> tuple[int, int] | None:
    """Return the square grid of so many positions, which all publishers have, or None if there is none.

    Examples:
        >>> square_grid(196), square_grid(128)
        ((14, 14), None)
    """
    side = round(max(positions, 0) ** 0.5)
    return (side, side) if side > 0 and side * side == positions else None


def split_rows(tokens: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Split tokens (B, L, C) into those of the grid and those at ``rows`` (B, len(rows), C), both in order.

    Examples:
        >>> import torch
        >>> grid, extra = split_rows(torch.arange(5).reshape(1, 5, 1), (2,))
        >>> grid.flatten().tolist(), extra.flatten().tolist()
        ([0, 1, 3, 4], [2])
    """
    if not rows:
        return tokens, tokens[:, :0]
    edges = [-1, *rows, tokens.shape[1]]
    grid = torch.cat([tokens[:, a + 1 : b] for a, b in itertools.pairwise(edges)], dim=1)
    return grid, torch.cat([tokens[:, row : row + 1] for row in rows], dim=1)


def insert_rows(tokens: Tensor, extra: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
    """Put token ``extra[i]`` (B, 1, C) at place ``rows[i]`` of the result, the inverse of :func:`split_rows`.

    Args:
        tokens: Tokens of the grid (B, L, C).
        extra: Further tokens.
        rows: Their places in the result, ascending.

    Returns:
        (B, L + len(rows), C).

    Examples:
        >>> import torch
        >>> insert_rows(torch.zeros(1, 4, 1), [torch.ones(1, 1, 1)], (2,)).flatten().tolist()
        [0.0, 0.0, 1.0, 0.0, 0.0]
    """
    parts, start = [], 0
    for place, (token, row) in enumerate(zip(extra, rows, strict=True)):
        stop = row - place  # tokens of the grid before this row
        parts += [tokens[:, start:stop], token]
        start = stop
    return torch.cat([*parts, tokens[:, start:]], dim=1) if parts else tokens


def rope_tables(
    height: int, width: int, dims: int, pt_size: int, class_rows: Sequence[int] = (), device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the 2-D rotary embedding of Vim's dense models, for a grid of any size.

    Half of the channels turn with the row, half with the column, in pairs (2i, 2i + 1) at frequency
    ``10000 ** (-4i / dims)`` (https://arxiv.org/abs/2104.09864, Sec. 3.4.2; in two dimensions as in EVA,
    https://arxiv.org/abs/2303.11331). Positions are scaled to the ``pt_size`` x ``pt_size`` grid of the pre-training,
    so that a larger grid spans the same angles.

    Args:
        height: Rows of the grid.
        width: Its columns.
        dims: Channels, a multiple of 4.
        pt_size: Side of the pre-training grid.
        class_rows: Places of class tokens in the sequence; they are not rotated. Defaults to ().
        device: Where the tables live. Defaults to None, the CPU.

    Returns:
        Two float32 tensors (height * width + len(class_rows), dims).

    Raises:
        ValueError: If ``dims`` is not a multiple of 4.

    Examples:
        >>> cos, sin = rope_tables(3, 5, dims=16, pt_size=14, class_rows=(7,))
        >>> cos.shape, cos[7].min().item()
        (torch.Size([16, 16]), 1.0)
    """
    if dims % 4:
        raise ValueError(f'rotary embedding needs embed_dims divisible by 4, got {dims}')
    half = dims // 2
    frequency = 10000 ** (-torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
    angles = []
    for size in (height, width):
        position = torch.arange(size, dtype=torch.float32, device=device) / size * pt_size
        angles.append(torch.outer(position, frequency).repeat_interleave(2, dim=1))  # (size, half)
    rows = angles[0][:, None].expand(height, width, half)  # (H, 1, half) -> (H, W, half)
    cols = angles[1][None].expand(height, width, half)  # (1, W, half) -> (H, W, half)
    angle = torch.cat([rows, cols], dim=-1).reshape(1, height * width, dims)  # (H, W, C) -> (1, H * W, C)
    still = angle.new_zeros(1, 1, dims)
    angle = insert_rows(angle, [still] * len(class_rows), class_rows)[0]  # (L, C)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each channel pair (2i, 2i + 1) of tokens by the angles of :func:`rope_tables`.

    Args:
        x: Tokens (B, L, C).
        cos: Cosines (L, C).
        sin: Sines (L, C).

    Returns:
        (B, L, C), in the dtype of ``x``.

    Examples:
        >>> import torch
        >>> tables = rope_tables(3, 5, dims=16, pt_size=14)
        >>> rotate(torch.randn(2, 15, 16), *tables).shape
        torch.Size([2, 15, 16])
    """
    pairs = x.unflatten(-1, (-1, 2))  # (B, L, C) -> (B, L, C / 2, 2)
    turned = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)  # (B, L, C)
    return (x * cos + turned * sin).to(x.dtype)
