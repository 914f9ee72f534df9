"""Learning curves from the scalars that MMEngine records."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Curve(NamedTuple):
    """Values of one quantity over the iterations.

    Args:
        steps: (n,) int64.
        values: (n,) float64.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.curves import Curve
        >>> Curve(np.array([10, 20]), np.array([0.9, 0.5])).values.tolist()
        [0.9, 0.5]
    """

    steps: np.ndarray
    values: np.ndarray


def read_curve(path: str | os.PathLike, name: str) -> Curve:
    """Read one quantity from a ``scalars.json`` of MMEngine's ``LocalVisBackend``.

    Args:
        path: The file: one JSON object a line, each with a ``step``.
        name: The quantity, for example ``'loss'`` or ``'mIoU'``.

    Returns:
        Its values, by rising step; the last value where a step occurs twice (a resumed training).

    Raises:
        ValueError: If the file has no such quantity, or a line is not JSON.

    Examples:
        >>> import tempfile
        >>> from mmvim.analysis.curves import read_curve
        >>> with tempfile.NamedTemporaryFile('w', suffix='.json') as file:
        ...     print('{"mIoU": 41.5, "step": 20}', file=file, flush=True)
        ...     read_curve(file.name, 'mIoU')
        Curve(steps=array([20]), values=array([41.5]))
    """
    found: dict[int, float] = {}
    for number, line in enumerate(Path(path).read_text(encoding='utf-8').splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f'{path}, line {number}: not a JSON object ({error})') from error
        if name in entry and 'step' in entry:
            found[int(entry['step'])] = float(entry[name])
    if not found:
        raise ValueError(f'{path} records no {name!r}')
    steps = sorted(found)
    return Curve(np.array(steps, np.int64), np.array([found[step] for step in steps], np.float64))


def plot_curves(
    path: str | os.PathLike,
    losses: Mapping[str, Curve],
    scores: Mapping[str, Curve],
    score_name: str = 'mIoU (%)',
    floors: Mapping[str, float] | None = None,
    title: str = '',
    colours: Sequence[str] = ('#2a6fb0', '#d1495b', '#3a8f5c', '#7a5195'),
) -> None:
    """Draw losses on the left and scores on the right over the iterations, as PNG; one panel if there are no others.

    Args:
        path: The file; its folder must exist.
        losses: Training loss of each run, by its name; or losses of one run, by other names than its scores.
        scores: Validation score of each run, by name.
        score_name: What the score is. Defaults to ``'mIoU (%)'``.
        floors: Levels to mark among the scores, by their description. Defaults to None.
        title: A line above. Defaults to ''.
        colours: Colours of the runs, in turn. Defaults to four that are easy to tell apart.

    Raises:
        ValueError: If there is nothing to draw.

    Examples:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from mmvim.analysis.curves import Curve, plot_curves
        >>> loss, score = Curve(np.array([1, 2]), np.array([2.0, 0.9])), Curve(np.array([2]), np.array([41.5]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_curves(os.path.join(folder, 'curves.png'), {'Vim-T': loss}, {'Vim-T': score})
        ...     os.listdir(folder)
        ['curves.png']
    """
    if not losses and not scores:
        raise ValueError('there is no curve to draw')
    figure = Figure(figsize=(9.6, 3.6), dpi=100, layout='constrained', facecolor='white')
    canvas = FigureCanvasAgg(figure)
    panels = [('training loss', losses)] if losses and set(losses) <= set(scores) else [('loss', losses)]
    panels = [panel for panel in (*panels, (score_name, scores)) if panel[1]]
    names = list(dict.fromkeys([*losses, *scores]))
    for axes, (label, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        is_score = curves is scores
        for name, curve in curves.items():
            colour = colours[names.index(name) % len(colours)]
            style = {'linewidth': 1.8, 'marker': 'o', 'markersize': 4} if is_score else {'linewidth': 1.6}
            last = f': {curve.values[-1]:.1f}' if is_score and len(curve.values) else ''
            axes.plot(curve.steps, curve.values, color=colour, label=f'{name}{last}', **style)
        if is_score:
            for description, level in (floors or {}).items():
                axes.axhline(level, color='0.45', linewidth=1.2, linestyle='--', label=f'{description}: {level:.1f}')
        axes.set_xlabel('iteration')
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
        for side in ('top', 'right'):
            axes.spines[side].set_visible(False)
        if is_score:
            axes.set_ylim(top=max(axes.get_ylim()[1] * 1.08, 1))
            axes.legend(frameon=False, loc='lower right', bbox_to_anchor=(1, 0.1), fontsize=9)
        elif len(curves) > 1 and not set(curves) <= set(scores):
            axes.legend(frameon=False, loc='upper right', fontsize=9)
    if title:
        figure.suptitle(title, fontsize=12)
    with Path(path).open('wb') as file:
        canvas.print_png(file)
