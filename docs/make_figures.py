"""Draw the figures of the pages that explain: ``python docs/make_figures.py`` writes docs/selective_scan_chunks.png."""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

CHUNKS, STEPS = 3, 5
FORWARD, BACKWARD, KEPT = '#1f5fa8', '#b5451b', '#222222'


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, style: str = '-') -> None:
    axis.annotate('', end, start, arrowprops={'arrowstyle': '-|>', 'color': colour, 'lw': 1.6, 'ls': style})


def chunks(path: Path) -> None:
    """Draw a forward and a backward pass over three chunks of five tokens."""
    figure, axis = plt.subplots(figsize=(9.6, 3.6), layout='constrained')
    for k in range(CHUNKS):
        left = k * (STEPS + 1.4)
        axis.add_patch(plt.Rectangle((left - 0.7, -0.75), STEPS + 0.35, 4.1, fill=False, color='#999999', ls=':'))
        axis.text(left + (STEPS - 1) / 2, 3.55, f'chunk {k + 1}', ha='center', fontsize=11)
        for row, (colour, label) in enumerate(((BACKWARD, 'g'), (FORWARD, 'h'), (FORWARD, 'h'))):
            for t in range(STEPS):
                dashed = row == 1  # computed again
                axis.add_patch(
                    plt.Circle(
                        (left + t, row * 1.3),
                        0.3,
                        fill=not dashed,
                        fc='white',
                        ec=colour,
                        lw=1.5,
                        ls='--' if dashed else '-',
                    )
                )
                number = k * STEPS + t + 1
                axis.text(
                    left + t, row * 1.3, f'${label}_{{{number}}}$', ha='center', va='center', fontsize=9, color=colour
                )
                ends = ((left + t - 0.68, row * 1.3), (left + t - 0.32, row * 1.3))
                if row == 0:
                    ends = (ends[1], ends[0])
                    if t == 0:
                        ends = ((left - 0.32, 0.0), (left - 2.08 if k else left - 0.68, 0.0))
                _arrow(axis, *ends, colour)
        kept = (left - 1.05, 1.95)
        axis.add_patch(plt.Rectangle((kept[0] - 0.24, kept[1] - 0.24), 0.48, 0.48, color=KEPT))
        axis.text(*kept, f'$h_{{{k * STEPS}}}$', color='white', ha='center', va='center', fontsize=9)
        _arrow(axis, (kept[0], kept[1] - 0.28), (left - 0.68, 1.3), KEPT, '--')
        if k:
            _arrow(axis, (left - 2.05, 2.6), (kept[0], kept[1] + 0.28), KEPT)
    end = CHUNKS * (STEPS + 1.4) - 1.4
    axis.annotate('', (end - 0.68, 0), (end - 0.1, 0), arrowprops={'arrowstyle': '-|>', 'color': BACKWARD, 'lw': 1.6})
    for row, text in enumerate(('gradients,\nlast to first', 'states, computed\nagain', 'states,\nfirst to last')):
        axis.text(end + 0.1, row * 1.3, text, va='center', fontsize=10)
    axis.text(-1.45, -1.15, 'black: the states that the forward pass keeps, one before each chunk', fontsize=10)
    axis.set(xlim=(-1.6, end + 2.9), ylim=(-1.4, 3.9), aspect='equal')
    axis.axis('off')
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == '__main__':
    chunks(Path(__file__).parent / 'selective_scan_chunks.png')
