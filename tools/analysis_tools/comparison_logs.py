"""The logs of ``compare_backbones.py``: a JSON file a row and seed, and one of latencies."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from comparison_rows import ROWS, Budget

LATENCY = 'latency.json'


def log_path(folder: Path, row: str, seed: int) -> Path:
    """Return where the log of a row and seed is."""
    return folder / f'{row}_seed{seed}.json'


def write_json(path: Path, content: dict) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix('.part')
    partial.write_text(json.dumps(content, indent=1) + '\n')
    os.replace(partial, path)


def settings(row: str, budget: Budget) -> dict[str, Any]:
    """Return what a log must have been made with to be compared, as JSON has it."""
    model = {key: getattr(ROWS[row], key) for key in ('backbone', 'channels', 'rescales', 'undecayed')}
    return json.loads(json.dumps({'model': model, 'budget': budget.as_dict()}))


def read_log(path: Path, row: str, seed: int, budget: Budget | None = None) -> dict[str, Any]:
    """Read a log and check that it is of this row, as the row is defined now.

    Args:
        path: The file.
        row: A key of ``ROWS``.
        seed: Its seed.
        budget: What it must have been given. Defaults to None, whatever it was.

    Raises:
        SystemExit: If it is not.
    """
    try:
        log = json.loads(path.read_text())
        found = {key: log[key] for key in ('model', 'budget')}
        same = (log['row'], log['seed']) == (row, seed)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise SystemExit(f'error: {path} is not a log ({error!r}); remove it, and run that row again') from None
    wanted = settings(row, budget or Budget(**found['budget']))
    if not same or found != wanted:
        changed = [key for key in wanted if found[key] != wanted[key]] or ['row']
        raise SystemExit(
            f'error: {path} was made with another {" and ".join(changed)}; run that row again with --again, or give '
            'another --out'
        )
    return log


def read_logs(folder: Path) -> dict[str, dict[int, dict]]:
    """Read all logs of a folder, by row in the order of ``ROWS`` and by seed.

    Raises:
        SystemExit: If there is none, one is not of its row, or their budgets differ.
    """
    found: dict[str, dict[int, dict]] = {}
    for row in ROWS:
        for path in sorted(folder.glob(f'{row}_seed*.json')):
            number = path.stem.removeprefix(f'{row}_seed')
            if number.isdecimal():
                found.setdefault(row, {})[int(number)] = read_log(path, row, int(number))
    if not found:
        raise SystemExit(f'error: {folder} has no logs; make them with: compare_backbones.py run')
    budgets = {json.dumps(log['budget'], sort_keys=True) for seeds in found.values() for log in seeds.values()}
    if len(budgets) > 1:
        raise SystemExit(f'error: the logs in {folder} have different budgets: {", ".join(sorted(budgets))}')
    return found


def read_latency(folder: Path) -> dict[str, Any] | None:
    """Read the latencies; None if they have not been measured.

    Raises:
        SystemExit: If a row has changed since.
    """
    path = folder / LATENCY
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    changed = [row for row, entry in content['rows'].items() if row not in ROWS or entry['model'] != _own(row)]
    if changed:
        raise SystemExit(f'error: {path} is of other models than now: {", ".join(changed)}; measure it again')
    return content


def _own(row: str) -> dict:
    return settings(row, Budget())['model']


def machine(threads: int) -> dict[str, Any]:
    """Return what the numbers depend on beside the models."""
    import mmengine
    import mmseg
    import torch

    import mmvim
    from mmvim.ops.selective_scan.operators import BACKENDS

    cpu = ''
    if Path('/proc/cpuinfo').exists():
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        cpu = next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), '')
    return {
        'cpu': cpu or platform.processor(),
        'threads': threads,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'mmengine': mmengine.__version__,
        'mmseg': mmseg.__version__,
        'mmvim': mmvim.__version__,
        'scan': BACKENDS.select(None, 'cpu'),
    }


def rows_named(names: Iterable[str]) -> list[str]:
    """Return the rows of these names, all if there is none, in the order of ``ROWS``.

    Raises:
        SystemExit: If there is no such row.
    """
    names = list(names)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise SystemExit(f'error: there is no row {unknown[0]!r}; there are {", ".join(ROWS)}')
    return [row for row in ROWS if not names or row in names]
