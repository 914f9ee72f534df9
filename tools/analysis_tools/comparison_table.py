"""What the logs of ``compare_backbones.py`` say: means and spreads, which differences exceed them, a table, a chart."""

from __future__ import annotations

import functools
import itertools
import math
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from comparison_rows import PARAMETERS, PICTURE, ROWS, TOLERANCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

CONFIDENCE = 0.95
BEGIN, END = '<!-- compare_backbones.py: begin -->', '<!-- compare_backbones.py: end -->'
BLOCK = re.compile(rf'(?<=^{re.escape(BEGIN)}\n).*?(?=^{re.escape(END)}$)', re.MULTILINE | re.DOTALL)


class Result(NamedTuple):
    """A row over its seeds.

    Attributes:
        row: Its key.
        scores: mIoU by seed, in percent.
        mean: Their mean.
        deviation: Their standard deviation; NaN of a single one.
        accuracy: Mean pixel accuracy.
        log: One of its logs: sizes.
    """

    row: str
    scores: dict[int, float]
    mean: float
    deviation: float
    accuracy: float
    log: dict[str, Any]


class Verdict(NamedTuple):
    """Which differences exceed the spread.

    Attributes:
        deviation: Standard deviation of a single training, pooled over the rows.
        least: Smallest difference of two means that exceeds the spread.
        above: For each row, those whose mean is lower by more than that.
    """

    deviation: float
    least: float
    above: dict[str, list[str]]


def summarise(logs: dict[str, dict[int, dict]]) -> list[Result]:
    """Return the rows of the logs, in the order of ``ROWS``."""
    found = []
    for row, seeds in logs.items():
        scores = {seed: log['mIoU'] for seed, log in sorted(seeds.items())}
        values = list(scores.values())
        found.append(
            Result(
                row,
                scores,
                statistics.mean(values),
                statistics.stdev(values) if len(values) > 1 else math.nan,
                statistics.mean(log['aAcc'] for log in seeds.values()),
                next(iter(seeds.values())),
            )
        )
    return found


@functools.cache
def studentized_range(groups: int, freedom: int, confidence: float = CONFIDENCE) -> float:
    """Return the quantile of the range of ``groups`` normal means over an estimate of their deviation.

    Drawn 400 000 times with a fixed seed, which is exact to about 0.01.

    Args:
        groups: Number of means.
        freedom: Degrees of freedom of the estimate.
        confidence: Defaults to 0.95.
    """
    random = np.random.default_rng(0)
    means = random.standard_normal((400_000, groups))
    estimate = np.sqrt(random.chisquare(freedom, len(means)) / freedom)
    return float(np.quantile(np.ptp(means, axis=1) / estimate, confidence))


def judge(results: list[Result]) -> Verdict | str:
    """Say which differences of means exceed the spread, or why nothing can be said.

    Tukey's test of all pairs at once: with as many seeds of each row, and trainings that scatter alike whichever the
    row, the chance that it finds any difference where there is none is 5 %.
    """
    missing = [row for row in ROWS if row not in {result.row for result in results}]
    seeds = {tuple(result.scores) for result in results}
    if missing:
        return f'{len(missing)} of {len(ROWS)} rows have not been run ({", ".join(missing)})'
    if len(seeds) > 1:
        return 'the rows have not all been run with the same seeds'
    count = len(seeds.pop())
    if count < 2:
        return 'one seed shows no spread'
    deviation = math.sqrt(statistics.mean(result.deviation**2 for result in results))
    least = studentized_range(len(results), len(results) * (count - 1)) * deviation / math.sqrt(count)
    above = {result.row: [other.row for other in results if result.mean - other.mean > least] for result in results}
    return Verdict(deviation, least, above)


def table(results: list[Result], latency: dict[str, Any] | None, picture: str = '') -> str:
    """Return the table and what it carries, as Markdown.

    Args:
        results: The rows.
        latency: What ``latency`` has measured, or None.
        picture: Where the chart is, seen from the page. Defaults to '', no chart.
    """
    times = latency['rows'] if latency else {}
    lines = [
        '| backbone | backbone (M) | whole model (M) | GFLOPs | of them scans | latency, ms | mIoU of each seed '
        '| mean | standard deviation | pixel accuracy |',
        '|-|-|-|-|-|-|-|-|-|-|',
    ]
    for result in results:
        log = result.log
        entry = times.get(result.row)
        scores = ', '.join(f'{score:.1f}' for score in result.scores.values())
        cells = [
            ROWS[result.row].title,
            f'{log["backbone_parameters"] / 1e6:.2f}',
            f'{log["parameters"] / 1e6:.2f}',
            f'{log["macs"] / 1e9:.2f}',
            f'{log["scan_flops"] / 1e9:.3f}',
            f'{entry["median"]:.1f} ({entry["low"]:.1f} to {entry["high"]:.1f})' if entry else '-',
            scores,
            f'{result.mean:.1f}',
            '-' if math.isnan(result.deviation) else f'{result.deviation:.1f}',
            f'{result.accuracy:.1f}',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    shown = ['', f'![mIoU against FLOPs and latency]({picture})'] if picture else []
    return '\n'.join([*lines, '', *_notes(results, latency), '', *_claims(results), *shown]) + '\n'


def _notes(results: list[Result], latency: dict[str, Any] | None) -> list[str]:
    log = results[0].log
    budget, machine = log['budget'], log['machine']
    height, width = PICTURE
    notes = [
        f'In the order of the tool, which is none of quality. Backbones of {PARAMETERS / 1e6:.2f} M parameters within '
        f'{100 * TOLERANCE:.0f} %; {budget["iterations"]} iterations of {budget["batch"]} crops of {budget["crop"]} x '
        f'{budget["crop"]} pixels, AdamW {budget["lr"]:g}; GFLOPs of a {width} x {height} picture, a multiply-add '
        'counted once, the scan by its formula. '
        f'Trained on one thread of {_cpu(machine["cpu"])}, PyTorch {machine["torch"]}.'
    ]
    if latency:
        machine = latency['machine']
        notes.append(
            f'Latency of the whole model for one such picture on {machine["threads"]} thread of '
            f'{_cpu(machine["cpu"])}: median and quartiles of {latency["rounds"]} rounds in which the models took '
            f"turns, the scan in '{machine['scan']}'."
        )
    return ['\n'.join(notes)]


def _cpu(name: str) -> str:
    return f'an {name}' if name[:1] in 'AEIOU' else f'a {name}' if name else 'a CPU'


def _claims(results: list[Result]) -> list[str]:
    verdict = judge(results)
    if isinstance(verdict, str):
        return [f'**Nothing is said of differences yet:** {verdict}.']
    seeds = len(results[0].scores)
    lines = [
        f'**What the spread carries.** A single training scatters by {verdict.deviation:.2f} points of mIoU (pooled '
        f'over the rows), so with {seeds} seeds two means must differ by more than {verdict.least:.1f} points for the '
        f"difference to exceed the spread (Tukey's test of all {math.comb(len(results), 2)} pairs at once, "
        f'{100 * CONFIDENCE:.0f} %). No order is claimed among rows that differ by less. These differences exceed it:',
        '',
    ]
    found = [
        f'- {ROWS[row].title} is above {_join([ROWS[other].title for other in lower])}.'
        for row, lower in verdict.above.items()
        if lower
    ]
    lines += found or ['- none.']
    means = {result.row: result.mean for result in results}
    gain = means['vmamba'] - means['vmamba-noscan']
    word = 'exceeds' if abs(gain) > verdict.least else 'does not exceed'
    lines += ['', f'VMamba differs from its control without a scan by {gain:+.1f} points, which {word} the spread.']
    return lines


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f'{", ".join(names[:-1])} and {names[-1]}'


def write_page(page: Path, text: str) -> None:
    """Put the table between its two marks in a page.

    Raises:
        SystemExit: If the page does not have them.
    """
    content = page.read_text('utf-8')
    if len(BLOCK.findall(content)) != 1:
        raise SystemExit(
            f'error: {page} does not have the lines "{BEGIN}" and "{END}", one after the other; write them where the '
            'table belongs'
        )
    page.write_text(BLOCK.sub(lambda _: text, content), 'utf-8')


def chart(path: Path, results: list[Result], latency: dict[str, Any] | None) -> None:
    """Draw mIoU against FLOPs and, where it was measured, latency: means, and a bar from the worst seed to the best."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sides = {'GFLOPs of a picture, scan counted': {result.row: result.log['macs'] / 1e9 for result in results}}
    if latency:
        measured = {row: entry['median'] for row, entry in latency['rows'].items()}
        sides['latency of a picture on one CPU thread, ms'] = measured
    figure = Figure(figsize=(6.4 * len(sides), 5), dpi=100, layout='constrained', facecolor='white')
    canvas = FigureCanvasAgg(figure)
    styles = {'mmvim': ('o', '#2a6fb0'), 'control': ('X', '#d1495b'), 'peer': ('s', '0.4')}
    for axes, (label, places) in zip(figure.subplots(1, len(sides), squeeze=False)[0], sides.items(), strict=True):
        for result in results:
            if result.row not in places:
                continue
            marker, colour = styles[ROWS[result.row].kind]
            low, high = (f(result.scores.values()) for f in (min, max))
            bars = [[result.mean - low], [high - result.mean]]
            at = places[result.row]
            axes.errorbar(at, result.mean, bars, marker=marker, color=colour, capsize=2, linewidth=1)
        axes.set_xlabel(label)
        axes.set_ylabel('mIoU (%), test split; bars from the worst seed to the best')
        axes.set_xlim(0, 1.15 * max(places.values()))
        axes.grid(alpha=0.25)
    canvas.draw()  # what follows asks where things are
    for axes, places in zip(figure.axes, sides.values(), strict=True):
        _name_points(axes, {ROWS[r.row].title: (places[r.row], r.mean) for r in results if r.row in places})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('wb') as file:
        canvas.print_png(file)


def _name_points(axes: Axes, points: dict[str, tuple[float, float]]) -> None:
    """Write each point's name where it covers the fewest other names and points."""
    taken = [axes.transData.transform(at) for at in points.values()]
    written: list[Bbox] = []
    for name, at in sorted(points.items(), key=lambda item: -item[1][1]):
        fewest = None
        for shift, side in itertools.product((4, -11, 14, -21, 24, -31), ('left', 'right')):
            across = 5 if side == 'left' else -5
            text = axes.annotate(
                name, at, (across, shift), textcoords='offset points', ha=side, fontsize=8, annotation_clip=False
            )
            box = text.get_window_extent()
            covered = 3 * box.count_overlaps(written) + sum(box.contains(*place) for place in taken)
            covered += 9 * (not axes.bbox.containsx(box.x0) or not axes.bbox.containsx(box.x1))
            if fewest is None or covered < fewest[0]:
                if fewest is not None:
                    fewest[1].remove()
                fewest = covered, text, box
            else:
                text.remove()
            if covered == 0:
                break
        assert fewest is not None
        written.append(fewest[2])
