"""What the tools print at a start is theirs: what other libraries say whatever the config is left out."""

import sys

import pytest
from tiny_runs import TOOLS, run

WORDS = ('FileClient', 'HardDiskBackend', 'The prefix is not set', 'Line NMS', 'Distributed training is not used')


@pytest.mark.parametrize('fixture', ['seg', 'det'])
def test_a_run_says_what_is_ours(fixture, request, tmp_path):
    config = request.getfixturevalue(fixture)
    done = run(sys.executable, TOOLS / 'train.py', config, '--work-dir', tmp_path / 'work', cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ''
    warned = [line for line in done.stdout.splitlines() if 'WARNING' in line]
    assert not [line for line in warned if any(word in line for word in WORDS)], warned


def test_a_check_says_what_there_is(det, tmp_path):
    done = run(sys.executable, TOOLS / 'train.py', det, '--check', '--work-dir', tmp_path / 'work', cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ''
    assert [line.split(':')[0] for line in done.stdout.splitlines()] == [
        'train_dataloader.dataset.dataset',
        'val_dataloader.dataset',
    ]


@pytest.mark.parametrize('how', [{'MMVIM_DEBUG': '1'}, {'PYTHONWARNINGS': 'default'}])
def test_whoever_asks_hears_all_of_it(how, seg, tmp_path):
    done = run(sys.executable, TOOLS / 'train.py', seg, '--work-dir', tmp_path / 'work', cwd=tmp_path, **how)
    assert done.returncode == 0 and 'avg_non_ignore' in done.stderr and 'FileClient' in done.stdout
