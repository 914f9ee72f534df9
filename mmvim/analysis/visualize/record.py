"""The selective scans of one run of a model: what each was given, what it returned, and where its tokens lie."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmvim.analysis.visualize.layouts import Layout, LayoutTracker
from mmvim.ops.scan_paths import available_scan_paths, scan_paths
from mmvim.ops.selective_scan.arguments import ScanArguments
from mmvim.ops.selective_scan.operators import selective_scan_fwd

_FIELDS = len(ScanArguments._fields)
# The parameters of orders whose names have some, to recognise a path by its map.
_SIDES = range(2, 17)


@dataclass(frozen=True, eq=False)
class RecordedScan:
    """One call of the selective scan.

    Attributes:
        layer: Name of the layer that called it.
        args: What it was given, without gradients; the batch of its tensors are the sequences of one picture.
        out: What it returned, (sequences, D, L), or (sequences, K, D, L) if stacked.
        last_state: The states after the last steps, (sequences, K, D, N).
        layout: Where its tokens lie.
        paths: A name for each of its K paths.
        previous: The scan in whose last state it began, or None.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.record import record_scans
        >>> from mmvim.models import SelectiveScan2D
        >>> (scan,) = record_scans(SelectiveScan2D(8, paths=('row', 'col_reverse')), torch.randn(1, 8, 3, 5))
        >>> scan.paths, scan.layout.grid, tuple(scan.out.shape)
        (('row', 'col_reverse'), (3, 5), (1, 16, 15))
    """

    layer: str
    args: ScanArguments
    out: Tensor
    last_state: Tensor
    layout: Layout
    paths: tuple[str, ...]
    previous: 'RecordedScan | None' = None

    def order(self, path: int) -> Tensor:
        """Return the position that each step of a path visits, int64 (T,); -1 at padding steps.

        Args:
            path: Number of the path, from 0.
        """
        args, row = self.args, self.args.map_ids[path]
        order = torch.arange(args.steps) if row < 0 or args.maps is None else args.maps[row].cpu()
        return order.flip(0) if args.reverse[path] else order


class NoScanError(ValueError):
    """A model ran no selective scan that could be recorded.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.record import NoScanError, record_scans
        >>> try:
        ...     record_scans(torch.nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 8, 8))
        ... except NoScanError as error:
        ...     print(error)
        Conv2d runs no selective scan; give a model that has one (Vision-RWKV's average is another operator)
    """


class _Recorder(TorchDispatchMode):
    def __init__(self, found: Callable[[ScanArguments, tuple], None]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is selective_scan_fwd:
            self.found(ScanArguments(*args[:_FIELDS]), result)
        return result


def record_scans(
    model: nn.Module, picture: Tensor, forward: Callable[[Tensor], object] | None = None
) -> list[RecordedScan]:
    """Run a model once, in evaluation mode and without gradients, and record its selective scans.

    Args:
        model: A backbone, a layer, or a model that has one.
        picture: What it is given, with a batch of one: a picture (1, channels, H, W), or a layer's tokens.
        forward: Runs the model on it. Defaults to None, calling it.

    Returns:
        The scans in the order of their calls.

    Raises:
        ValueError: If the batch is not one.
        NoScanError: If the model runs no selective scan, or one that is no operator (the backend 'reference').

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.record import record_scans
        >>> from mmvim.models import Vim
        >>> model = Vim({'embed_dims': 16, 'depth': 2}, img_size=64)
        >>> [(scan.layer, scan.paths) for scan in record_scans(model, torch.randn(1, 3, 64, 96))]
        [('layers.0.mixer', ('row', 'row_reverse')), ('layers.1.mixer', ('row', 'row_reverse'))]
    """
    if picture.shape[0] != 1:
        raise ValueError(f'picture must have a batch of one, got shape {tuple(picture.shape)}; give one at a time')
    scans: list[RecordedScan] = []
    training = model.training

    def found(args: ScanArguments, result: tuple[Tensor, Tensor, Tensor]) -> None:
        tensors = {name: x.detach() for name, x in args.tensors().items()}
        layout = tracker.layout(args.length)
        start = args.initial_state
        before = None if start is None else next((s for s in reversed(scans) if s.last_state is start), None)
        done = sum(len(scan.paths) for scan in scans if scan.layer == tracker.layer)
        names = _names(args, layout, tracker.mixer, done)
        scans.append(RecordedScan(tracker.layer, args._replace(**tensors), *result[:2], layout, names, before))

    model.eval()
    try:
        with LayoutTracker(model) as tracker, torch.no_grad(), _Recorder(found):
            model(picture) if forward is None else forward(picture)
    finally:
        model.train(training)
    if not scans:
        named = {getattr(module, 'scan_operator', None) for module in model.modules()}
        if 'mmvim::selective_scan' in named:
            raise NoScanError("the scan ran on the backend 'reference', which is no operator; unset MMVIM_SCAN_BACKEND")
        raise NoScanError(
            f'{type(model).__name__} runs no selective scan; give a model that has one '
            "(Vision-RWKV's average is another operator)"
        )
    return scans


def _names(args: ScanArguments, layout: Layout, mixer: nn.Module | None, done: int) -> tuple[str, ...]:
    """Return what to call each path: what the layer says, else the order whose map it is.

    Args:
        args: Of the scan.
        layout: Of its tokens.
        mixer: The layer.
        done: Paths that this layer has walked before.
    """
    said = getattr(mixer, 'paths', None)
    if isinstance(said, tuple) and len(said) >= done + args.num_paths:
        return said[done : done + args.num_paths]
    return tuple(_name(args, layout, k) for k in range(args.num_paths))


def _name(args: ScanArguments, layout: Layout, k: int) -> str:
    height, width = layout.grid
    if args.maps is None or args.map_ids[k] < 0:
        of_cells = layout.cells.shape == (1, height * width) and height > 1
        return ('row' + '_reverse' * args.reverse[k]) if of_cells else ('forward', 'backward')[args.reverse[k]]
    steps = args.maps[args.map_ids[k]].cpu()
    for stem in candidate_orders(height, width):
        (path,) = scan_paths((stem,), height, width)
        if torch.equal(path.order(), steps):
            return stem + '_reverse' * args.reverse[k]
    return f'path {k}'


def candidate_orders(height: int, width: int) -> Iterator[str]:
    """Yield the names of orders, without ``_reverse``, that a map's path may have; parameters up to 16.

    Args:
        height: Rows of the map.
        width: Columns of the map.

    Examples:
        >>> from mmvim.analysis.visualize.record import candidate_orders
        >>> list(candidate_orders(4, 4))[:4], 'window7' in candidate_orders(4, 4)
        (['row', 'col', 'zigzag_row', 'zigzag_col'], True)
    """
    for name in available_scan_paths():
        if name.endswith('_reverse'):
            continue
        if '<' not in name:
            yield name
        elif name == 'atrous<p>_<k>':
            yield from (f'atrous{p}_{k}' for p in range(2, 5) for k in range(1, p * p + 1))
        elif name.count('<') == 1:
            stem, _, rest = name.partition('<')
            yield from (f'{stem}{side}{rest.partition(">")[2]}' for side in _SIDES)
