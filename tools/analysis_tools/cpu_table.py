"""The tables and the chart of docs/cpu.md, from the rows that benchmark_cpu.py has measured."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

NAMES = {
    'eager': 'eager',
    'optimized': 'for inference',
    'bf16': 'bf16',
    'int8': 'int8',
    'compiled': 'compiled',
    'onnxruntime': 'ONNX Runtime',
    'openvino': 'OpenVINO',
}
TITLES = {'backbone': 'Backbones', 'whole': 'Whole segmentors'}
BLOCK = '<!-- begin {name} (tools/analysis_tools/benchmark_cpu.py) -->\n{text}<!-- end {name} -->'
PAGE = """# Speed on a CPU

One picture, {machine}; Python {python}, PyTorch {torch}.
Milliseconds are medians. Every row took turns with DeiT-T (fused attention) and Swin-T in one run, and the last two
columns are within the row: how many times as fast the model is (eager or for inference, whichever is faster) as these
two are, eager. Memory is the peak of a call above what was resident, eager and for inference. Weights are random; mIoU
is what was published for ADE20K at 512 x 512, single scale. What is not mmvim's is MMSegmentation's own. A dash is what
was not measured, or cannot be run.

- *for inference* is `mmvim.optimize_for_inference(model)`, for all models alike: on x86 processors that are not Intel's
  it takes linear layers from MKL to oneDNN.
- *bf16* and *int8* are autocast and `mmvim.deploy.quantize_dynamic`, both of the copy for inference.
- *compiled* is `torch.compile(model)`; *ONNX Runtime* and *OpenVINO* run the exported model in float32, in which a scan
  is a chain of ordinary operators ([deployment.md](deployment.md)).
- *DeiT-T, plain* is MMSegmentation's vision transformer as it is; *fused* is the same without the weights that nobody
  reads, so that PyTorch's fused attention runs.
- *MambaVision-T* has the windows that its segmentor was published with, 64 and 32 cells a side, which at 512 pixels are
  three quarters padding; *fitting windows* are of the map's size, for which nothing is published.

```shell
python tools/analysis_tools/benchmark_cpu.py --logs LOGS --parts backbone whole --sides 512 1024
python tools/analysis_tools/benchmark_cpu.py --logs LOGS --parts backbone --sides 224 1248 2048
python tools/analysis_tools/benchmark_cpu.py --logs LOGS --write docs/cpu.md
```

{blocks}
"""


def read(logs: Path) -> list[dict]:
    """Return the rows of a folder, or of one file of them, in the order of tables."""
    if logs.is_file():
        return json.loads(logs.read_text('utf-8'))
    rows = [json.loads(path.read_text('utf-8')) for path in sorted(logs.glob('*-*-*.json'))]
    return sorted(rows, key=lambda row: (row['part'], row['side'], not row['own'], best(row) or 0.0, row['model']))


def best(row: dict, runtimes: Sequence[str] = ('eager', 'optimized')) -> float | None:
    """Return the shortest time of a row in some runtimes, in ms; None if it was measured in none of them."""
    return min(
        (row['runtimes'][name]['ms'] for name in runtimes if 'ms' in row['runtimes'].get(name, {})), default=None
    )


def _number(value: float | None, digits: int = 0) -> str:
    return '-' if value is None else f'{value:.{digits}f}'


def table(rows: Iterable[dict]) -> str:
    """Return the table of the rows of one part and side."""
    rows = list(rows)
    runtimes = [name for name in NAMES if any('ms' in row['runtimes'].get(name, {}) for row in rows)]
    references = list(rows[0]['references'])
    head = ['model', 'mIoU', *(f'{NAMES[name]}, ms' for name in runtimes), 'eager, MB', 'for inference, MB']
    head += [f'times {reference}' for reference in references]
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '-|' * len(head)]
    for row in rows:
        own, found = best(row), row['runtimes']
        cells = [row['model'] if row['own'] else f'*{row["model"]}*', _number(row['mIoU'], 1)]
        cells += [_number(found.get(name, {}).get('ms')) for name in runtimes]
        cells += [_number(found.get(name, {}).get('mb')) for name in ('eager', 'optimized')]
        ratios = [row['references'][reference]['ms'] / own if own else None for reference in references]
        cells += [_number(ratio, 2) for ratio in ratios]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def claims(rows: Sequence[dict]) -> str:
    """Return the table of what the papers claim of a backbone at 1248, beside what was measured here.

    Speed is over DeiT-T of the same way of attention, eager both, through the DeiT-T (fused) that both rows took turns
    with; and for the copy for inference.
    """
    at = {row['model']: row for row in rows if (row['part'], row['side']) == ('backbone', 1248)}
    if not {'Vim-T', 'DeiT-T, plain', 'DeiT-T, fused'} <= at.keys():
        return ''

    def relative(name: str, runtime: str) -> float:
        row = at[name]
        return row['runtimes'][runtime]['ms'] / row['references']['DeiT-T, fused']['ms']

    lines = [
        '| at 1248 x 1248 | times as fast as DeiT-T, plain | memory saved, % | as DeiT-T, fused | memory saved, % |',
        '|-|-|-|-|-|',
        '| Vim-T, its paper (a GPU, half precision, batch) | 2.8 | 86.8 | - | - |',
        '| ViT^3-T, its paper (likewise) | 4.6 | 90.3 | - | - |',
    ]
    for runtime in ('eager', 'optimized'):
        if 'ms' not in at['Vim-T']['runtimes'].get(runtime, {}):
            continue
        cells = [f'Vim-T here, {NAMES[runtime]}']
        for peer in ('DeiT-T, plain', 'DeiT-T, fused'):
            speed = relative(peer, 'eager') / relative('Vim-T', runtime)
            memory = at['Vim-T']['runtimes'][runtime]['mb'] / at[peer]['runtimes']['eager']['mb']
            cells += [f'{speed:.1f}', f'{100 * (1 - memory):.1f}']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def draw(rows: Sequence[dict], path: Path) -> bool:
    """Draw mIoU against milliseconds of whole segmentors at 512: for inference, and in bf16 where that was measured.

    Returns:
        Whether there was anything to draw.
    """
    points = [row for row in rows if (row['part'], row['side']) == ('whole', 512) and row['mIoU'] and best(row)]
    if not points:
        return False
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    figure, axis = plt.subplots(figsize=(9, 6), layout='constrained')
    placed: list[tuple[float, float]] = []
    for row in sorted(points, key=lambda row: (-row['mIoU'], best(row))):
        colour, half = ('C0' if row['own'] else 'C1'), best(row, ('bf16',))
        axis.plot(best(row), row['mIoU'], 'o', color=colour)
        if half is not None:
            axis.plot([best(row), half], [row['mIoU']] * 2, '-', color=colour, alpha=0.4)
            axis.plot(half, row['mIoU'], 'o', color=colour, fillstyle='none')
        at = best(row) or 0.0, row['mIoU']
        near = sum(abs(x / at[0] - 1) < 0.3 and abs(y - at[1]) < 0.6 for x, y in placed)  # whose name is there already
        axis.annotate(row['model'], at, (4, 4 - 11 * near), textcoords='offset points', fontsize=8)
        placed.append(at)
    for colour, label in (('C0', 'mmvim'), ('C1', "MMSegmentation's own")):
        axis.plot([], [], 'o', color=colour, label=label)
    axis.plot([], [], 'o', color='grey', fillstyle='none', label='in bf16')
    axis.set(xscale='log', xlabel='milliseconds a picture of 512 x 512', ylabel='published mIoU, ADE20K')
    axis.margins(x=0.12)  # for the last names
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
    axis.xaxis.set_major_formatter('{x:.0f}')
    axis.xaxis.set_minor_formatter('')
    axis.grid(alpha=0.3, which='both')
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True


def blocks(rows: Sequence[dict], chart: str | None) -> dict[str, tuple[str, str]]:
    """Return heading and text of each block of the page by name."""
    found: dict[str, tuple[str, str]] = {}
    for part in TITLES:
        for side in sorted({row['side'] for row in rows if row['part'] == part}):
            chosen = [row for row in rows if (row['part'], row['side']) == (part, side)]
            found[f'{part} {side}'] = f'{TITLES[part]}, {side} x {side}', table(chosen)
    if chart is not None:
        picture = f'![published mIoU against milliseconds of whole segmentors]({chart})\n'
        found['chart'] = 'Accuracy against time', picture
    if claims(rows):
        found['claims'] = 'Against the papers', claims(rows)
    return found


def write(logs: Path, page: Path) -> None:
    """Write the blocks of a page, the page where there is none, the chart and the numbers themselves beside it.

    Args:
        logs: The folder of the rows, or the file beside the page.
        page: The page, ``NAME.md``; the others are ``NAME.png`` and ``NAME.json``.

    Raises:
        SystemExit: If there are no rows.
    """
    rows = read(logs)
    if not rows:
        raise SystemExit(f'{logs} has no rows: measure some with --parts')
    chart = page.with_suffix('.png')
    found = blocks(rows, chart.name if draw(rows, chart) else None)
    text = page.read_text('utf-8') if page.exists() else ''
    kept = [name for name in found if f'<!-- begin {name} (' in text]
    if not text or len(kept) < len(found):
        parts = [f'## {title}\n\n{BLOCK.format(name=name, text=block)}' for name, (title, block) in found.items()]
        text = PAGE.format(**describe(rows), blocks='\n\n'.join(parts))
    for name, (_, block) in found.items():
        pattern = (
            BLOCK.format(name=re.escape(name), text='.*?').replace('(tools', r'\(tools').replace('.py)', r'\.py\)')
        )
        written = BLOCK.format(name=name, text=block)
        text = re.sub(pattern, lambda _, written=written: written, text, flags=re.DOTALL)
    page.write_text(text, 'utf-8')
    page.with_suffix('.json').write_text(json.dumps(rows, indent=1) + '\n', 'utf-8')


def describe(rows: Sequence[dict]) -> dict[str, str]:
    """Return what the page says of the machine, from its first row."""
    about, threads = rows[0]['machine'], rows[0]['threads']
    return {**about, 'machine': f'{threads} thread{"s" * (threads != 1)} of {about["cpu"]}'}
