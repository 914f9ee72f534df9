"""What the tools print at a start is theirs: what other libraries say whatever the config is left out."""

import re
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
from tiny_runs import TOOLS, run

pytestmark = pytest.mark.slow
WORDS = ('FileClient', 'HardDiskBackend', 'The prefix is not set', 'Line NMS', 'Distributed training is not used')
SCRIPTS = {'train': 'train.py', 'test': 'test.py', 'flops': 'analysis_tools/get_flops.py'}
# As with mmcv-lite, which has no operators.
LITE = (
    "import runpy, sys; sys.modules['mmcv.ops'] = sys.modules['mmcv._ext'] = None; sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def original_packages():
    try:
        return bool(version('mmsegmentation'))
    except PackageNotFoundError:
        return False


@pytest.fixture
def start(tmp_path):
    """Run a command on a config as its tool does, and return what it prints; nothing comes as an error or a warning."""

    def call(command, config, *python, **env):
        more = ['--shape', 64, 64] if command == 'flops' else ['--work-dir', tmp_path / 'work']
        if command == 'test':
            more.insert(0, weights_of(config, tmp_path / 'weights.pth'))
        return run(sys.executable, *python, TOOLS / SCRIPTS[command], config, *more, cwd=tmp_path, **env)

    return call


def weights_of(config, file):
    import torch

    from mmvim.cli import build_model, load_config

    torch.save({'state_dict': build_model(load_config(str(config))).state_dict()}, file)
    return file


@pytest.mark.parametrize('fixture', ['seg', 'det'])
@pytest.mark.parametrize('command', SCRIPTS)
def test_a_run_says_what_is_ours(command, fixture, request, start):
    done = start(command, request.getfixturevalue(fixture))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ''
    warned = [line for line in done.stdout.splitlines() if 'WARNING' in line]
    assert not [line for line in warned if any(word in line for word in WORDS)], warned
    if command == 'flops':  # a table and what it counts
        assert re.match(r'\s+\w+ at 64 x 64 \(height x width\)', done.stdout), done.stdout


@pytest.mark.skipif(original_packages(), reason='the original MMSegmentation cannot be imported without the operators')
@pytest.mark.parametrize('command', SCRIPTS)
def test_a_start_without_operators_says_what_is_ours(command, seg, start):
    done = start(command, seg, '-c', LITE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ''


def test_a_check_says_what_there_is(det, tmp_path):
    done = run(sys.executable, TOOLS / 'train.py', det, '--check', '--work-dir', tmp_path / 'work', cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ''
    assert [line.split(':')[0] for line in done.stdout.splitlines()] == [
        'train_dataloader.dataset.dataset',
        'val_dataloader.dataset',
    ]


@pytest.mark.parametrize('how', [{'MMVIM_DEBUG': '1'}, {'PYTHONWARNINGS': 'default'}])
def test_whoever_asks_hears_all_of_it(how, seg, start):
    done = start('train', seg, **how)
    assert done.returncode == 0 and 'avg_non_ignore' in done.stderr and 'FileClient' in done.stdout
