"""Vision-RWKV's shift of tokens by a cell (Duan et al., https://arxiv.org/abs/2403.02308, Sec. 3)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# For the neighbours on the left, on the right, above and below: the cells that have one, those neighbours, and the
# cells that have none, each as rows and columns of the map.
_ALL, _FIRST, _LAST, _AFTER, _BEFORE = slice(None), slice(0, 1), slice(-1, None), slice(1, None), slice(None, -1)
_NEIGHBOURS = (
    ((_ALL, _AFTER), (_ALL, _BEFORE), (_ALL, _FIRST)),
    ((_ALL, _BEFORE), (_ALL, _AFTER), (_ALL, _LAST)),
    ((_AFTER, _ALL), (_BEFORE, _ALL), (_FIRST, _ALL)),
    ((_BEFORE, _ALL), (_AFTER, _ALL), (_LAST, _ALL)),
)
# The same shifts as paddings of (channels, columns, rows), negative where the map loses a line.
_PADDINGS = ((0, 0, 1, -1), (0, 0, -1, 1), (0, 0, 0, 0, 1, -1), (0, 0, 0, 0, -1, 1))


def q_shift(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Give each cell of a map values of its four neighbours, each in a quarter of the channels.

    The first quarter is the left neighbour's, the next the right one's, then those above and below; outside of the map
    there are zeros. Up to three channels that are left over stay as they are.

    Args:
        x: Tokens (B, H * W, C) in raster order.
        grid: (H, W), any.

    Returns:
        (B, H * W, C).

    Raises:
        ValueError: If the tokens do not fill the grid.

    Examples:
        >>> import torch
        >>> x = torch.arange(1, 7).reshape(1, 6, 1).expand(1, 6, 4)  # 1 2 3 in the first row, 4 5 6 in the second
        >>> for quarter in q_shift(x, (2, 3)).unbind(-1):
        ...     print(quarter.reshape(2, 3).tolist())
        [[0, 1, 2], [0, 4, 5]]
        [[2, 3, 0], [5, 6, 0]]
        [[0, 0, 0], [1, 2, 3]]
        [[4, 5, 6], [0, 0, 0]]
    """
    cells = _cells(x, grid)
    *parts, rest = cells.split([*[x.shape[-1] // 4] * 4, x.shape[-1] % 4], dim=-1)
    shifted = [F.pad(part, padding) for part, padding in zip(parts, _PADDINGS, strict=True)]
    return torch.cat([*shifted, rest], dim=-1).flatten(1, 2)  # (B, H, W, C) -> (B, H * W, C)


def shift_and_mix(x: Tensor, grid: tuple[int, int], *mixes: Tensor) -> tuple[Tensor, ...]:
    """Mix tokens with their neighbours: ``mix * x + (1 - mix) * q_shift(x, grid)`` for each of the mixes.

    The shifted tokens are never made: each result is computed from ``x`` in place of both, and ``x`` and the mixes are
    all that the gradients keep.

    Args:
        x: Tokens (B, H * W, C) in raster order.
        grid: (H, W), any.
        *mixes: Weights of the tokens themselves, (C,) each.

    Returns:
        (B, H * W, C) for each mix, in the wider dtype of ``x`` and the mixes.

    Raises:
        ValueError: If the tokens do not fill the grid.

    Examples:
        >>> import torch
        >>> x, mix = torch.randn(2, 15, 8), torch.rand(8)
        >>> mixed, own = shift_and_mix(x, (3, 5), mix, torch.ones(8))
        >>> torch.allclose(mixed, mix * x + (1 - mix) * q_shift(x, (3, 5)), atol=1e-6), torch.equal(own, x)
        (True, True)
    """
    for mix in mixes:
        x = x.to(torch.promote_types(x.dtype, mix.dtype))
    mixes = tuple(mix.to(x.dtype) for mix in mixes)
    if torch.compiler.is_compiling():  # a compiler fuses the definition
        return _mix_by_definition(x, grid, *mixes)
    return tuple(y.flatten(1, 2) for y in _ShiftAndMix.apply(_cells(x, grid), *mixes))  # (B, H, W, C) -> (B, H * W, C)


def _cells(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """View tokens (B, H * W, C) as cells (B, H, W, C)."""
    if x.shape[1] != grid[0] * grid[1]:
        raise ValueError(f'{x.shape[1]} tokens do not fill a grid of {grid[0]} x {grid[1]}; give their (rows, columns)')
    return x.unflatten(1, grid)


def _mix_by_definition(x: Tensor, grid: tuple[int, int], *mixes: Tensor) -> tuple[Tensor, ...]:
    shifted = q_shift(x, grid)
    return tuple(torch.lerp(shifted, x, mix) for mix in mixes)


def _quarter(index: int, channels: int) -> slice:
    return slice(index * (channels // 4), (index + 1) * (channels // 4))


class _ShiftAndMix(torch.autograd.Function):
    """:func:`shift_and_mix` on cells (B, H, W, C)."""

    @staticmethod
    def forward(cells: Tensor, *mixes: Tensor) -> tuple[Tensor, ...]:
        """Write each result once, quarter by quarter."""
        channels = cells.shape[-1]
        outputs = tuple(cells.new_empty(cells.shape) for _ in mixes)
        for mix, output in zip(mixes, outputs, strict=True):
            for index, (inner, neighbours, border) in enumerate(_NEIGHBOURS):
                part = _quarter(index, channels)
                x, y, weight = cells[..., part], output[..., part], mix[part]
                torch.lerp(x[:, *neighbours], x[:, *inner], weight, out=y[:, *inner])
                torch.mul(x[:, *border], weight, out=y[:, *border])
            output[..., 4 * (channels // 4) :] = cells[..., 4 * (channels // 4) :]
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        """Save what was given, and nothing that was made."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Send a share of each gradient to the cell itself, the rest to its neighbours."""
        cells, *mixes = ctx.saved_tensors
        channels = cells.shape[-1]
        # Laid out as the cells are: a batch norm's gradient may come next, and on CPUs it is wrong if layouts differ.
        of_cells = torch.zeros_like(cells) if ctx.needs_input_grad[0] else None
        of_mixes: list[Tensor | None] = []
        for mix, grad, needed in zip(mixes, grads, ctx.needs_input_grad[1:], strict=True):
            of_mix = mix.new_zeros(channels) if needed else None
            for index, (inner, neighbours, _) in enumerate(_NEIGHBOURS):
                part = _quarter(index, channels)
                x, dy, weight = cells[..., part], grad[..., part], mix[part]
                if of_cells is not None:
                    dx = of_cells[..., part]
                    dx.addcmul_(dy, weight)
                    dx[:, *neighbours].addcmul_(dy[:, *inner], 1 - weight)
                if of_mix is not None:
                    of_mix[part] = (dy * x).sum((0, 1, 2)) - (dy[:, *inner] * x[:, *neighbours]).sum((0, 1, 2))
            if of_cells is not None:
                of_cells[..., 4 * (channels // 4) :] += grad[..., 4 * (channels // 4) :]
            of_mixes.append(of_mix)
        return of_cells, *of_mixes

    @staticmethod
    def vmap(info: Any, in_dims: tuple, cells: Tensor, *mixes: Tensor) -> tuple[tuple[Tensor, ...], Any]:
        """Compute a batch by the definition, which any transform takes."""
        _, height, width, _ = cells.shape if in_dims[0] is None else cells.select(in_dims[0], 0).shape
        grid = (height, width)

        def one(cells: Tensor, *mixes: Tensor) -> tuple[Tensor, ...]:
            mixed = _mix_by_definition(cells.flatten(1, 2), grid, *mixes)  # (B, H, W, C) -> (B, H * W, C)
            return tuple(y.unflatten(1, grid) for y in mixed)  # (B, H * W, C) -> (B, H, W, C)

        return torch.vmap(one, in_dims)(cells, *mixes), (0,) * len(mixes)
