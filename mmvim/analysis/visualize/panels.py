"""What the pictures of a model are made of: panels out of recorded scans, receptive fields and feature maps."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmvim.analysis.visualize.attention import attention_map, delta_map
from mmvim.analysis.visualize.features import principal_components
from mmvim.analysis.visualize.figure import Panel
from mmvim.analysis.visualize.receptive import ReceptiveField, side_holding
from mmvim.analysis.visualize.record import RecordedScan


def by_layer(scans: Sequence[RecordedScan], layers: Sequence[str] = ()) -> dict[str, list[RecordedScan]]:
    """Group the scans of a model by layer.

    Args:
        scans: What :func:`mmvim.analysis.visualize.record.record_scans` returned.
        layers: Names of those that are wanted, whole, or numbers of the model's scanning layers as text, negative from
            the end. Defaults to (), the first, the middle and the last.

    Raises:
        ValueError: If a layer is unknown.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.panels import by_layer
        >>> from mmvim.analysis.visualize.record import record_scans
        >>> from mmvim.models import Vim
        >>> scans = record_scans(Vim({'embed_dims': 16, 'depth': 3}, img_size=64), torch.randn(1, 3, 64, 64))
        >>> list(by_layer(scans)), list(by_layer(scans, ['-1']))
        (['layers.0.mixer', 'layers.1.mixer', 'layers.2.mixer'], ['layers.2.mixer'])
    """
    found: dict[str, list[RecordedScan]] = {}
    for scan in scans:
        found.setdefault(scan.layer, []).append(scan)
    names = list(found)
    if not layers:
        wanted = [names[place] for place in sorted({0, len(names) // 2, len(names) - 1})]
    else:
        numbers = {str(n): name for start in (0, -len(names)) for n, name in enumerate(names, start)}
        unknown = [layer for layer in layers if layer not in found and layer not in numbers]
        if unknown:
            raise ValueError(
                f'layer {unknown[0]!r} is none of those that scan; give a number, 0 to {len(names) - 1}, or a name, '
                f'{names[0]!r} to {names[-1]!r}'
            )
        wanted = [layer if layer in found else numbers[layer] for layer in layers]
    return {name: found[name] for name in wanted}


def _size(scan: RecordedScan) -> str:
    return f'{scan.layout.grid[0]} x {scan.layout.grid[1]} cells'


def attention_panels(
    layers: dict[str, list[RecordedScan]], pixel: tuple[int, int], picture: np.ndarray
) -> list[list[Panel]]:
    """Make a row of panels a layer, and in it one a direction: what each cell contributes to a pixel's cell.

    The cell's contribution to itself, which the skip D is part of and which would make all others vanish, is drawn no
    darker than the largest of the others'; the note has both.

    Args:
        layers: Scans by layer.
        pixel: Row and column.
        picture: (H, W, 3) uint8, what the model was given.

    Raises:
        ValueError: If the picture has no such pixel.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from mmvim.analysis.visualize.panels import attention_panels, by_layer
        >>> from mmvim.analysis.visualize.record import record_scans
        >>> from mmvim.models import Vim
        >>> scans = record_scans(Vim({'embed_dims': 16, 'depth': 1}, img_size=64), torch.randn(1, 3, 64, 64))
        >>> (row,) = attention_panels(by_layer(scans), (20, 40), np.zeros((64, 64, 3), np.uint8))
        >>> [(panel.title, panel.values.shape) for panel in row]
        [('layers.0.mixer: row', (4, 4)), ('row_reverse', (4, 4))]
    """
    height, width = picture.shape[:2]
    if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
        raise ValueError(f'pixel {tuple(pixel)} is outside of the picture of {height} x {width} pixels')
    rows = []
    for name, scans in layers.items():
        panels: list[Panel] = []
        for scan in scans:
            rows_, columns = scan.layout.grid
            cell = pixel[0] * rows_ // height, pixel[1] * columns // width
            for path, direction in enumerate(scan.paths):
                values, own, others = _beside_itself(attention_map(scan, path, *cell).numpy(), cell)
                title = direction if panels else f'{name}: {direction}'
                note = f'{_size(scan)}; itself {own:.2g}, others to {others:.2g}'
                panels.append(Panel(title, values, picture, pixel, note=note))
        rows.append(panels)
    return rows


def _beside_itself(values: np.ndarray, cell: tuple[int, int]) -> tuple[np.ndarray, float, float]:
    """Cut a cell's contribution to itself, in which the skip D is, to the largest of the others', and return both."""
    own, values = float(values[cell]), values.copy()
    values[cell] = 0.0
    others = float(np.nanmax(values))
    values[cell] = min(own, others) if others > 0 else own
    return values, own, others


def delta_panels(layers: dict[str, list[RecordedScan]], picture: np.ndarray) -> list[list[Panel]]:
    """Make a row of panels a layer, and in it one a direction: the step size of each cell.

    Args:
        layers: Scans by layer.
        picture: (H, W, 3) uint8, what the model was given.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from mmvim.analysis.visualize.panels import by_layer, delta_panels
        >>> from mmvim.analysis.visualize.record import record_scans
        >>> from mmvim.models import Vim
        >>> scans = record_scans(Vim({'embed_dims': 16, 'depth': 1}, img_size=64), torch.randn(1, 3, 64, 64))
        >>> (row,) = delta_panels(by_layer(scans), np.zeros((64, 64, 3), np.uint8))
        >>> [panel.title for panel in row]
        ['layers.0.mixer: row', 'row_reverse']
    """
    rows = []
    for name, scans in layers.items():
        panels: list[Panel] = []
        for scan in scans:
            for path, direction in enumerate(scan.paths):
                values = delta_map(scan, path).numpy()
                low, high = np.nanmin(values), np.nanmax(values)
                title = direction if panels else f'{name}: {direction}'
                # Stretched, as what differs within a map is what there is to see; the note has the numbers.
                stretched = (values - low) / (high - low if high > low else 1.0)
                panels.append(Panel(title, stretched, picture, note=f'{_size(scan)}, {low:.3g} to {high:.3g}'))
        rows.append(panels)
    return rows


def field_panels(fields: Sequence[ReceptiveField], names: Sequence[str]) -> list[Panel]:
    """Make a panel of each receptive field.

    Args:
        fields: The fields.
        names: What each is of.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.panels import field_panels
        >>> from mmvim.analysis.visualize.receptive import ReceptiveField
        >>> field_panels([ReceptiveField(torch.ones(9, 9), (4.5, 4.5))], ['output 0'])[0].note
        'half of it in 7, 99 % in 9 px'
    """
    panels = []
    for field, name in zip(fields, names, strict=True):
        half, most = side_holding(field, (0.5, 0.99))
        mark = field.centre[0] - 0.5, field.centre[1] - 0.5
        note = f'half of it in {half}, 99 % in {most} px'
        panels.append(Panel(name, field.values.numpy(), mark=mark, note=note))
    return panels


def feature_panels(maps: Sequence[Tensor], names: Sequence[str], picture: np.ndarray) -> list[list[Panel]]:
    """Make two rows of panels: the first three principal components of each map as a colour, and the first alone.

    Args:
        maps: Feature maps (1, C, h, w).
        names: What each is.
        picture: (H, W, 3) uint8, what the model was given.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from mmvim.analysis.visualize.panels import feature_panels
        >>> rows = feature_panels([torch.randn(1, 8, 4, 6)], ['stage 0'], np.zeros((32, 48, 3), np.uint8))
        >>> [[panel.title for panel in row] for row in rows]
        [['picture', 'stage 0: components 1-3'], ['picture', 'stage 0: component 1']]
    """
    colours, first = [Panel('picture', picture=picture)], [Panel('picture', picture=picture)]
    for features, name in zip(maps, names, strict=True):
        found = principal_components(features[0])
        shape, shares = tuple(features.shape[2:]), found.shares
        cells = f'{features.shape[1]} channels, {shape[0]} x {shape[1]} cells'
        colours.append(
            Panel(
                f'{name}: components 1-3',
                colours=_in_shape(found.maps.permute(1, 2, 0), picture.shape),
                note=f'{cells}, {100 * shares.sum():.0f} % of variance',
            )
        )
        values = _in_shape(found.maps[:1].permute(1, 2, 0), picture.shape)[..., 0]
        first.append(Panel(f'{name}: component 1', values, note=f'{100 * shares[0]:.0f} % of variance'))
    return [colours, first]


def _in_shape(values: Tensor, shape: Sequence[int]) -> np.ndarray:
    """Enlarge a map (h, w, n) to a picture's shape, each cell a block of pixels."""
    rows = torch.arange(shape[0]) * values.shape[0] // shape[0]
    columns = torch.arange(shape[1]) * values.shape[1] // shape[1]
    return values[rows][:, columns].numpy()
