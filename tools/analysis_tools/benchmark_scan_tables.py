"""Tables of the scan's benchmark on a CPU, with a line for each shape and implementation, or one for each shape."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scan_implementations import Shape

LIMITS = ('exp', 'softplus', 'bytes')  # what 'limit' is made of
HEADER = ['shape', 'implementation', 'forward ms', '/ limit', 'forward + backward ms', 'forward MB', 'fwd + bwd MB']


def row(shape: Shape, name: str, found: dict) -> list[str]:
    """Return one line of the table; ratios are peer / ours, so more is better for the line's implementation."""

    def cell(backward: bool, field: str, digits: int) -> str:
        result = found.get((shape.name, name, backward))
        if result is None:
            return '-'
        base = found.get((shape.name, 'pscan', backward))
        text = f'{result[field]:.{digits}f}'
        if base is None or name in ('pscan', 'limit'):
            return text
        return (
            f'{text} ({base[field] / result[field]:.1f}x)'
            if field == 'ms'
            else f'{text} ({100 * result[field] / base[field]:.0f} %)'
        )

    limit = found.get((shape.name, 'limit', False))
    forward = found.get((shape.name, name, False))
    times = of_limits(forward, limit) if limit and forward else '-'
    return [
        shape.name,
        name,
        cell(False, 'ms', 1),
        times,
        cell(True, 'ms', 1),
        cell(False, 'mb', 0),
        cell(True, 'mb', 0),
    ]


def of_limits(result: dict, limit: dict) -> str:
    """Return a time as a multiple of the limit, and in brackets of the limit with softplus."""
    return f'{result["ms"] / limit["ms"]:.1f}x ({result["ms"] / limit["with_softplus_ms"]:.1f}x)'


def irreducible(shape: Shape, backward: bool) -> int:
    """Return the bytes of the output and, with ``backward``, of the gradients."""
    k, rows = len(shape.paths), shape.batch * shape.length
    values = math.prod(shape.output)
    if backward:
        own = 1 if shape.shared else k
        values += rows * (shape.dim * ((1 if shape.shared_u else k) + own) + 2 * own * shape.d_state)
        values += (1 if shape.chain else k) * shape.dim * shape.d_state
    return 4 * values


def by_shape(shapes: list[Shape], names: list[str], found: dict, backward: bool) -> list[str]:
    """Return a Markdown table with a line for each shape: the implementations side by side, ours with ratios.

    'results' is the memory of the output and the gradients themselves.
    """

    def cell(result: dict | None, name: str, field: str, base: dict | None, limit: dict | None) -> str:
        if result is None:
            return '-'
        if field == 'mb':
            share = f' ({100 * result["mb"] / base["mb"]:.1f} %)' if base and name.startswith('ours') else ''
            return f'{result["mb"]:.0f}{share}'
        notes = [f'{base["ms"] / result["ms"]:.1f}x pscan'] if base and name.startswith('ours') else []
        notes += [f'{of_limits(result, limit)} limit'] if limit and name.startswith('ours') else []
        return f'{result["ms"]:.1f}' + (f' ({", ".join(notes)})' if notes else '')

    peers = [
        name
        for name in names
        if name != 'limit' and (not backward or any((s.name, name, True) in found for s in shapes))
    ]
    with_limit = not backward and 'limit' in names
    head = [
        'shape',
        *(['limit (with softplus), ms'] if with_limit else []),
        *(f'{name}, ms' for name in peers),
        *(f'{name}, MB' for name in peers),
        'results, MB',
    ]
    table = ['| ' + ' | '.join(head) + ' |']
    table.append('|' + '-|' * (table[0].count('|') - 1))
    for shape in shapes:
        limit, base = found.get((shape.name, 'limit', False)), found.get((shape.name, 'pscan', backward))
        cells = [f'{limit["ms"]:.2f} ({limit["with_softplus_ms"]:.2f})' if limit else '-'] if with_limit else []
        for field in ('ms', 'mb'):
            cells += [
                cell(found.get((shape.name, name, backward)), name, field, base, None if backward else limit)
                for name in peers
            ]
        cells.append(f'{irreducible(shape, backward) / 1e6:.0f}')
        table.append(f'| {shape.name} | ' + ' | '.join(cells) + ' |')
    return table
