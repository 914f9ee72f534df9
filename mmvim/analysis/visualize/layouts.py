"""Where the tokens of a scan lie on the map of a picture, which the scan itself does not know."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmvim.models.layers.window_attention import split_windows


class Layout(NamedTuple):
    """The cells of a map that the tokens of one picture stand for.

    Attributes:
        grid: Rows and columns of the map, (h, w).
        cells: Raster number of each token's cell, int64 (sequences, L), on the CPU; -1 for a token that is no cell: a
            class token, or what pads a window. One sequence, or one for each window.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.layouts import Layout
        >>> Layout((1, 2), torch.tensor([[0, -1, 1]])).find(0, 1)
        (0, 2)
    """

    grid: tuple[int, int]
    cells: Tensor

    def find(self, row: int, column: int) -> tuple[int, int]:
        """Return the sequence and the token of a cell.

        Args:
            row: Of the map, from 0.
            column: Of the map, from 0.

        Raises:
            ValueError: If the map has no such cell.
        """
        height, width = self.grid
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f'cell ({row}, {column}) is outside of the map of {height} x {width} cells')
        sequence, token = (self.cells == row * width + column).nonzero()[0].tolist()
        return sequence, token

    def to_map(self, values: Tensor, sequence: int | None = None) -> Tensor:
        """Put the values of tokens on the map.

        Args:
            values: (sequences, L), or (L,) of one sequence.
            sequence: Which one that is. Defaults to None, all of them.

        Returns:
            (h, w), NaN where no token of the given sequences lies.
        """
        height, width = self.grid
        cells = self.cells if sequence is None else self.cells[sequence]
        picture = torch.full((height * width + 1,), torch.nan, dtype=torch.float64)  # -1 writes to the last entry
        picture[cells.flatten()] = values.detach().to('cpu', torch.float64).reshape(-1)
        return picture[:-1].reshape(height, width)


def map_layout(height: int, width: int) -> Layout:
    """Return the layout of a map whose cells are the tokens, in raster order.

    Examples:
        >>> from mmvim.analysis.visualize.layouts import map_layout
        >>> map_layout(2, 3).cells.tolist()
        [[0, 1, 2, 3, 4, 5]]
    """
    return Layout((height, width), torch.arange(height * width)[None])


def class_token_layout(grid: tuple[int, int], rows: Sequence[int]) -> Layout:
    """Return the layout of a sequence of patches with class tokens between them.

    Args:
        grid: Rows and columns of patches.
        rows: Places of the class tokens in the sequence.

    Examples:
        >>> from mmvim.analysis.visualize.layouts import class_token_layout
        >>> class_token_layout((1, 3), (1,)).cells.tolist()
        [[0, -1, 1, 2]]
    """
    length = grid[0] * grid[1] + len(rows)
    cells = torch.full((1, length), -1)
    cells[0, [token for token in range(length) if token not in rows]] = torch.arange(grid[0] * grid[1])
    return Layout(tuple(grid), cells)


def window_layout(height: int, width: int, side: int) -> Layout:
    """Return the layout of a map that is cut into windows, a sequence each; what pads them is -1.

    Args:
        height: Rows of the map.
        width: Columns of the map.
        side: Of a window, in cells.

    Examples:
        >>> from mmvim.analysis.visualize.layouts import window_layout
        >>> window_layout(2, 3, 2).cells.tolist()
        [[0, 1, 3, 4], [2, -1, 5, -1]]
    """
    numbers = torch.arange(1, height * width + 1).reshape(1, 1, height, width)
    tokens, _ = split_windows(numbers, side)  # (windows, side * side, 1), 0 where padded
    return Layout((height, width), tokens[..., 0] - 1)


class LayoutTracker:
    """Follow a model while it runs, and tell where the tokens of the scan lie that runs now.

    Args:
        model: A backbone, or a model that has one.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.layouts import LayoutTracker
        >>> from mmvim.models import SelectiveScan2D
        >>> layer = torch.nn.Sequential(SelectiveScan2D(8))
        >>> with LayoutTracker(layer) as tracker:
        ...     hook = layer[0].conv2d.register_forward_hook(lambda *_: print(tracker.layer, tracker.layout(15).grid))
        ...     _ = layer(torch.zeros(1, 8, 3, 5))
        0 (3, 5)
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._mixers: list[tuple[str, nn.Module, tuple]] = []  # that run now, the innermost last
        self._windows: tuple[int, int, int] | None = None  # height, width, side
        self._patches: tuple[tuple[int, int], tuple[int, ...]] | None = None  # grid, places of class tokens
        self._hooks: list[Any] = []

    def __enter__(self) -> 'LayoutTracker':
        owners = {id(getattr(module, 'patch_embed', None)): module for module in self.model.modules()}
        for name, module in self.model.named_modules():
            if hasattr(module, 'scan_operator'):
                self._hooks += [
                    module.register_forward_pre_hook(self._enter_mixer(name), with_kwargs=True),
                    module.register_forward_hook(lambda *_: (self._mixers.pop(), None)[1], always_call=True),
                ]
            if isinstance(getattr(module, 'window_size', None), int):
                self._hooks.append(module.register_forward_pre_hook(self._note_windows))
            if id(module) in owners and hasattr(owners[id(module)], 'class_rows'):
                self._hooks.append(module.register_forward_hook(self._note_patches(owners[id(module)])))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _enter_mixer(self, name: str):
        def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self._mixers.append((name, module, (*args, *kwargs.values())))

        return note

    def _note_windows(self, module: Any, args: tuple) -> None:
        self._windows = (args[0].shape[2], args[0].shape[3], module.window_size)

    def _note_patches(self, owner: Any):
        def note(module: nn.Module, args: tuple, output: Any) -> None:
            grid = output[1]
            self._patches = grid, owner.class_rows(grid[0] * grid[1])

        return note

    @property
    def layer(self) -> str:
        """Name of the layer whose scan runs now; '' outside of any that says it has one, or for the model itself."""
        return self._mixers[-1][0] if self._mixers else ''

    @property
    def mixer(self) -> nn.Module | None:
        """The layer whose scan runs now."""
        return self._mixers[-1][1] if self._mixers else None

    def layout(self, length: int) -> Layout:
        """Return where the tokens of a scan over so many positions lie; in one row if nothing tells.

        Args:
            length: Positions of the scan, L.
        """
        given = self._mixers[-1][2] if self._mixers else ()
        if given and isinstance(given[0], Tensor) and given[0].ndim == 4:  # a map (B, C, H, W)
            for scale in (1, 2):  # a scan may run at half of the map's resolution
                height, width = (-(-side // scale) for side in given[0].shape[2:])
                if height * width == length:
                    return map_layout(height, width)
        if len(given) > 1 and isinstance(given[1], (tuple, list)) and given[1][0] * given[1][1] == length:
            return map_layout(*given[1])
        if self._windows is not None and self._windows[2] ** 2 == length:
            return window_layout(*self._windows)
        if self._patches is not None and self._patches[0][0] * self._patches[0][1] + len(self._patches[1]) == length:
            return class_token_layout(*self._patches)
        return map_layout(1, length)
