"""The benchmark of the CPU table: its rows and pages, and that it refuses to report beside a busy process."""

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from families import FAMILY_CASES
from torch import nn

TOOLS = ROOT / 'tools/analysis_tools'


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    names = ('benchmark_cpu', 'cpu_models', 'cpu_table', 'busy')
    return argparse.Namespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture
def busy_process():
    """The number of a process that nobody here has started, and that computes; it ends by itself if need be."""
    command = 'timeout 60 sh -c "while :; do :; done" >/dev/null 2>&1 & echo $!'
    pid = int(subprocess.run(['sh', '-c', command], capture_output=True, text=True, check=True).stdout)
    yield pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)  # `timeout` hands it on


@pytest.fixture
def here(tools, monkeypatch):
    """Tiny models, whose workers are in this process."""

    class Here:
        def __init__(self, script, job, env=None):
            self.ask = tools.benchmark_cpu.answering(job)

        def close(self):
            pass

    def make(name, part, side):
        torch.manual_seed(0)
        if name.startswith('ResNet'):
            return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        return FAMILY_CASES['vim'].build_tiny().eval()

    monkeypatch.setattr(tools.benchmark_cpu, 'Worker', Here)
    monkeypatch.setattr(tools.benchmark_cpu, 'make', make)
    monkeypatch.setattr('mmvim.cli.keep_freed_memory', lambda: False)
    monkeypatch.setattr(torch, 'set_num_threads', lambda number: None)
    return tools.benchmark_cpu


@pytest.fixture
def alone(tools, monkeypatch):
    """A machine on which nobody else computes."""

    class Watch:
        def check(self, last=False):
            pass

    monkeypatch.setattr(tools.benchmark_cpu, 'Watch', Watch)


def command(tools, logs, *arguments):
    return tools.benchmark_cpu.parse_args(['--logs', str(logs), *arguments])


def measure(tools, args):
    args.logs.mkdir(exist_ok=True)
    for part in args.parts:
        rows = tools.benchmark_cpu.Rows(part, args.sides[0], args)
        for name in args.names:
            tools.benchmark_cpu.measure_row(rows, name, args)
    return tools.cpu_table.read(args.logs)


def test_rows_and_page(tools, here, alone, tmp_path, capsys):
    usual = ('--parts', 'backbone', 'whole', '--sides', '64', '--models', 'Vim-T', 'ResNet', '--rounds', '2')
    rows = measure(tools, command(tools, tmp_path / 'logs', *usual, '--runtimes', 'eager', 'int8'))
    names = ('Vim-T', 'LocalVim-T', 'ResNet-50')
    assert sorted((row['part'], row['model']) for row in rows) == sorted(
        (part, name) for part in ('backbone', 'whole') for name in names
    )
    assert [row['own'] for row in rows] == [True, True, False] * 2
    vim, resnet = next(row for row in rows if row['model'] == 'Vim-T'), rows[2]
    assert all(
        len(vim['runtimes'][name]['times']) == 2 and vim['runtimes'][name]['mb'] >= 0 for name in ('eager', 'int8')
    )
    assert set(vim['references']) == {'DeiT-T, fused', 'Swin-T'} and vim['mIoU'] == 41.0
    assert 'no plain linear layer' in resnet['runtimes']['int8']['failed'] and not resnet['own']
    capsys.readouterr()
    # A row that is there is not measured again, but for what is missing and eager beside it.
    again = measure(tools, command(tools, tmp_path / 'logs', *usual, '--runtimes', 'eager', 'int8'))
    assert again == rows and capsys.readouterr().out == ''
    more = measure(tools, command(tools, tmp_path / 'logs', *usual, '--runtimes', 'optimized', 'bf16'))
    again = next(row for row in more if row['model'] == 'Vim-T')
    assert list(again['runtimes']) == ['eager', 'int8', 'optimized', 'bf16']
    assert again['runtimes']['int8'] == vim['runtimes']['int8']

    page = tmp_path / 'cpu.md'
    tools.cpu_table.write(tmp_path / 'logs', page)
    text = page.read_text()
    assert '## Backbones, 64 x 64' in text and '## Whole segmentors, 64 x 64' in text
    (line,) = [line for line in text.splitlines() if line.startswith('| *ResNet-50* | 42.0')][:1]
    assert line.count('|') == text.splitlines()[text.splitlines().index(line) - 4].count('|') and ' - ' in line
    # A change by hand outside of the blocks stays, one within does not; the numbers beside the page say the same.
    page.write_text(text.replace('# Speed on a CPU', '# Fast').replace('| Vim-T |', '| Vim-X |'))
    tools.cpu_table.write(page.with_suffix('.json'), page)
    assert page.read_text() == text.replace('# Speed on a CPU', '# Fast')


def test_a_command_makes_the_machine_quiet(tools, here, alone, tmp_path):
    """It runs before and after the turns of each row, also where another process disturbs them."""
    log, script = tmp_path / 'log', tmp_path / 'around.sh'
    script.write_text(f'echo "$1" >> {log}')
    usual = ('--parts', 'backbone', '--sides', '64', '--models', 'ResNet', '--rounds', '1', '--runtimes', 'eager')
    measure(tools, command(tools, tmp_path / 'logs', *usual, '--around', f'sh {script}'))
    assert log.read_text().split() == ['begin', 'end']
    with pytest.raises(tools.busy.BusyError), tools.benchmark_cpu.quietly(f'sh {script}'):
        raise tools.busy.BusyError('another one')
    assert log.read_text().split() == ['begin', 'end'] * 2
    with pytest.raises(subprocess.CalledProcessError), tools.benchmark_cpu.quietly('false'):
        pass


def row(model, ms, mb, part='backbone', side=1248, **runtimes):
    found = {'eager': {'ms': ms, 'mb': mb}, **runtimes}
    beside = {'DeiT-T, fused': {'ms': 100.0}, 'Swin-T': {'ms': 200.0}}
    about = {'cpu': '2 x A', 'python': '3', 'torch': '2'}
    numbers = {'part': part, 'side': side, 'threads': 2, 'own': model == 'Vim-T', 'mIoU': 41.0, 'source': 'somebody'}
    return {'model': model, **numbers, 'machine': about, 'references': beside, 'runtimes': found}


def test_ratios_chart_and_claims(tools, tmp_path):
    rows = [
        row('Vim-T', 50.0, 90.0, optimized={'ms': 25.0, 'mb': 45.0}),
        row('DeiT-T, plain', 400.0, 900.0),
        row('DeiT-T, fused', 100.0, 60.0),
        row('Vim-T', 50.0, 90.0, 'whole', 512, bf16={'ms': 20.0, 'mb': 1.0}),
    ]
    lines = tools.cpu_table.table(rows[:3]).splitlines()
    assert lines[2] == '| Vim-T | 41.0 | 50 | 25 | 90 | 45 | 4.00 | 8.00 |'
    assert lines[3] == '| *DeiT-T, plain* | 41.0 | 400 | - | 900 | - | 0.25 | 0.50 |'
    claims = tools.cpu_table.claims(rows).splitlines()
    assert claims[-2] == '| Vim-T here, eager | 8.0 | 90.0 | 2.0 | -50.0 |'
    assert claims[-1] == '| Vim-T here, for inference | 16.0 | 95.0 | 4.0 | 25.0 |'
    assert tools.cpu_table.claims(rows[1:]) == ''
    (tmp_path / 'rows.json').write_text(json.dumps(rows))
    tools.cpu_table.write(tmp_path / 'rows.json', tmp_path / 'cpu.md')
    assert (tmp_path / 'cpu.png').stat().st_size > 1000 and '](cpu.png)' in (tmp_path / 'cpu.md').read_text()


def test_the_page_is_what_its_numbers_say(tools, tmp_path):
    page = ROOT / 'docs/cpu.md'
    text = page.read_text('utf-8')
    for name, (_, block) in tools.cpu_table.blocks(tools.cpu_table.read(page.with_suffix('.json')), 'cpu.png').items():
        written = tools.cpu_table.BLOCK.format(name=name, text=block)
        assert written in text, (
            f'{name}: write the page anew with benchmark_cpu.py --logs docs/cpu.json --write docs/cpu.md'
        )


def test_a_busy_process_is_seen(tools, busy_process):
    watch = tools.busy.Watch(window=0.5)
    with pytest.raises(tools.busy.BusyError, match=r'has taken \d\.\d\d of a core for'):
        for _ in range(100):
            time.sleep(0.2)
            watch.check()


def test_nothing_is_reported_beside_a_busy_process(tools, here, busy_process, tmp_path, monkeypatch, capsys):
    """The positive control: the row is tried again, then the command ends, and no file is written."""
    monkeypatch.setattr(here.time, 'sleep', lambda seconds: None)
    args = command(tools, tmp_path, '--parts', 'backbone', '--sides', '64', '--models', 'ResNet', '--runtimes', 'eager')
    args.rounds, args.seconds, args.retries = 10**6, 3.0, 1
    with pytest.raises(SystemExit, match='stop the other process and repeat the command'):
        measure(tools, args)
    assert capsys.readouterr().err.count('ResNet-50, backbone, 64: not reported, process') == 2
    assert list(Path(tmp_path).iterdir()) == []


def test_what_counts_as_busy(tools, monkeypatch):
    """With made-up numbers: own processes and their children do not count, others and those that have ended do."""
    me = os.getpid()
    before = {1: (0, 'init', 5.0), me: (1, 'me', 50.0), 70: (me, 'worker', 5.0), 80: (1, 'other', 7.0)}
    cases = {
        'quiet': ({}, 10.0, None),
        'others a little': ({80: (1, 'other', 7.5)}, 10.5, None),
        'another': ({80: (1, 'other', 9.0)}, 12.0, r'process 80 \(other\) has taken 0\.20 of a core for 10\.0 s'),
        'a new one': ({90: (80, 'new', 3.0)}, 13.0, r'process 90 \(new\)'),
        'a child of ours': ({90: (70, 'new', 3.0)}, 13.0, None),
        'gone': ({}, 13.0, r'processes that have ended took 0\.30'),
    }
    for name, (changes, total, words) in cases.items():
        clock, seconds, system = [0.0], [before], [100.0]
        monkeypatch.setattr(tools.busy.time, 'monotonic', lambda clock=clock: clock[0])
        monkeypatch.setattr(tools.busy, '_processes', lambda seconds=seconds: seconds[0])
        monkeypatch.setattr(tools.busy, '_system', lambda system=system: system[0])
        watch = tools.busy.Watch()
        clock[0], system[0] = 10.0, 100.0 + total
        seconds[0] = {**before, me: (1, 'me', 55.0), 70: (me, 'worker', 10.0), **changes}
        with pytest.raises(tools.busy.BusyError, match=words) if words else contextlib.nullcontext():
            watch.check()
        assert watch.at == 10.0, name


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], 'give --parts to measure, --write to write'),
        (['--parts', 'backbone', '--sides', '32'], '--sides must be at least 64'),
        (['--parts', 'whole', '--models', 'Vim-T', 'vit-x'], '--models vit-x fits none of: Vim-T; MambaVision-T;'),
    ],
)
def test_wrong_use(tools, tmp_path, arguments, words, capsys):
    with pytest.raises(SystemExit):
        command(tools, tmp_path, *arguments)
    assert words in capsys.readouterr().err
    with pytest.raises(SystemExit, match='has no rows: measure some with --parts'):
        tools.cpu_table.write(tmp_path, tmp_path / 'cpu.md')


@pytest.mark.full
@pytest.mark.parametrize('part', ['backbone', 'whole'])
def test_every_model_is_built_and_runs(tools, part):
    for name in tools.cpu_models.models():
        model = tools.cpu_models.make(name, part, 128)
        with torch.no_grad():
            y = model(torch.randn(1, 3, 128, 128))
        assert y.shape == (1, 150, 128, 128) if part == 'whole' else all(out.ndim == 4 for out in y), name


def test_fused_attention_is_the_same(tools):
    attention = nn.MultiheadAttention(16, 2, batch_first=False).eval()
    x = torch.randn(9, 2, 16)
    with torch.no_grad():
        wanted, weights = attention(x, x, x)
        tools.cpu_models.fuse(nn.Sequential(attention))
        found, nothing = attention(x, x, x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert weights is not None and nothing is None
