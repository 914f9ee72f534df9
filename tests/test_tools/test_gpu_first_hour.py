"""tools/analysis_tools/gpu_first_hour.sh, where there is no GPU, and with an interpreter that says there is one."""

import os
import shutil
import subprocess
import sys

import pytest
from checkout import ROOT, load_module

SCRIPT = ROOT / 'tools/analysis_tools/gpu_first_hour.sh'
STEPS = ['doctor', 'tests', 'scan', 'model', 'counters', 'launches', 'backbones']
pytestmark = pytest.mark.skipif(shutil.which('bash') is None, reason='bash is not installed')
counters = load_module(ROOT / 'tools/analysis_tools/gpu_counters.py')


def run(*arguments, **env):
    return subprocess.run(
        [SCRIPT, *arguments],
        env={**os.environ, 'PYTHON': sys.executable, **env},
        text=True,
        capture_output=True,
        check=False,
    )


def test_dry_run_lists_steps_that_exist():
    done = run('--dry-run')
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and not done.stderr
    assert [line.partition(':')[0] for line in lines[::2]] == STEPS
    for command in lines[1::2]:
        interpreter, first, *_ = command.split()
        assert interpreter == sys.executable
        assert first == '-m' or (ROOT / first).is_file()


def test_no_gpu(tmp_path):
    done = run('--report', str(tmp_path / 'report.md'), CUDA_VISIBLE_DEVICES='')
    assert done.returncode == 3 and done.stdout == '' and not list(tmp_path.iterdir())
    assert done.stderr == 'error: no GPU: torch.cuda.is_available() is false; --dry-run lists what would run\n'


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['everything'], "there is no step 'everything'; there are: doctor tests"),
        (['--quick'], "there is no step '--quick'"),
        (['--report'], '--report needs a file'),
    ],
)
def test_wrong_use(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2 and words in done.stderr


def test_an_interpreter_without_torch(tmp_path):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\nexit 1\n')
    python.chmod(0o755)
    done = run(PYTHON=str(python))
    assert done.returncode == 2 and 'cannot import torch; set PYTHON' in done.stderr


def test_the_report_has_what_each_step_printed(tmp_path):
    """An interpreter that has a GPU, and whose tests fail: the other steps run, and the report says so."""
    python = tmp_path / 'my python'
    python.write_text(
        '#!/bin/sh\ncase "$*" in\n*is_available*) echo yes;;\n*get_device_properties*) echo "- GPU: made up";;\n'
        '*pytest*) echo "one test failed"; exit 1;;\n*) echo "ran $*";;\nesac\n'
    )
    python.chmod(0o755)
    report = tmp_path / 'report.md'
    done = run('--report', str(report), 'tests', 'counters', PYTHON=str(python))
    assert done.returncode == 1 and done.stderr == 'failed: tests\n'
    text = report.read_text()
    assert text.startswith('# mmvim on a GPU\n') and '- GPU: made up' in text and '- revision: ' in text
    assert [line for line in text.splitlines() if line.startswith('## ')] == ['## tests', '## counters']
    assert 'one test failed' in text and 'Status 1 after' in text
    assert 'ran tools/analysis_tools/gpu_counters.py' in text and 'Status 0 after' in text
    assert run('--report', str(report), 'model', PYTHON=str(python)).returncode == 0


@pytest.mark.skipif(shutil.which('shellcheck') is None, reason='shellcheck is not installed')
def test_shellcheck():
    subprocess.run(['shellcheck', SCRIPT], check=True)


CSV = """==PROF== Connected to process 1
a line of the program
==PROF== Disconnected from process 1
"ID","Process ID","Kernel Name","Context","Stream","Section Name","Metric Name","Metric Unit","Metric Value"
"0","1","scan_forward","1","7","Command line","dram__bytes_write.sum","byte","1,234,567"
"0","1","scan_forward","1","7","Command line","gpu__time_duration.sum","ns","2,000.5"
"1","1","elementwise(int)","1","7","Command line","gpu__time_duration.sum","ns","9"
"2","1","merge_paths(args)","1","7","Command line","sm__warps_active.avg.per_cycle_active","warp","n/a"
"""


def test_reading_counters():
    first, second = counters.read_counters(CSV)
    assert first == counters.Seen('scan_forward', {'memory written': 1234567.0, 'time': 2000.5})
    assert second.kernel == 'merge_paths' and counters.text_of('warps', second.values['warps']) == '-'
    with pytest.raises(ValueError, match=r'printed no table: .*ERR_NVGPUCTRPERM'):
        counters.read_counters('==ERROR== ERR_NVGPUCTRPERM')


def test_the_second_run_counts():
    seen = [counters.Seen(x, {}) for x in ('a1', 'b1', 'a2', 'b2', 'c1', 'c2')]
    assert counters.second_runs(seen, [2, 1]) == [seen[2:4], seen[5:]]
    with pytest.raises(ValueError, match='6 launches were counted, 4 expected'):
        counters.second_runs(seen, [2])


def test_what_is_expected():
    """The launches of both passes, with the bytes of their results and the model's times."""
    pytest.importorskip('triton')
    found = counters.expected((64, 384, 16, 196, 2), 132, 90, 1.755)
    names = [launch.kernel for launch in found]
    assert set(names) <= set(counters.OWN)
    assert names.index('scan_forward') < names.index('merge_paths') < names.index('scan_backward')
    assert names.count('collect_projections') == 2
    forward, backward = (found[names.index(f'scan_{name}')].values for name in ('forward', 'backward'))
    boundaries = 64 * 2 * -(-196 // 16) * 16 * 384 * 4
    own = 64 * 2 * 196 * 384 * 2 + boundaries + 64 * 2 * 16 * 384 * 4  # outputs, boundary states, last states
    assert forward['memory written'] == own
    assert backward['instructions'] > forward['instructions'] > 64 * 2 * 196 * 384 / 32 * 100
    text = counters.table({}, {'a scan': found})
    assert text.count('scan_backward') == 1 and '(' in text


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    with pytest.raises(SystemExit, match='no GPU; --expected'):
        counters.main([])
