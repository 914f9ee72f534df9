"""The launcher scripts and `torchrun -m mmvim`, on two processes that share the CPU."""

import socket
import sys

import pytest
import tiny_runs as tiny
import torch


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return str(listener.getsockname()[1])


@pytest.mark.full
@pytest.mark.skipif(torch.cuda.is_available(), reason='the two processes would need two GPUs')
def test_train_and_test_on_two_processes(tmp_path, seg):
    result = tiny.run(
        'bash',
        tiny.TOOLS / 'dist_train.sh',
        seg,
        2,
        '--work-dir',
        'work',
        '--cfg-options',
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=9',
        cwd=tmp_path,
        PORT=free_port(),
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stderr.count('warning: no GPU: SyncBN') == 1  # from the main process alone
    [log] = (tmp_path / 'work').glob('*/*.log')
    assert "launcher = 'pytorch'" in log.read_text() and 'GPU number: 2' in log.read_text()
    result = tiny.run(
        'bash', tiny.TOOLS / 'dist_test.sh', seg, tmp_path / 'work' / 'iter_2.pth', 2, cwd=tmp_path, PORT=free_port()
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert list((tmp_path / 'work_dirs' / seg.stem).glob('*/*.json'))


@pytest.mark.full
@pytest.mark.skipif(torch.cuda.is_available(), reason='the two processes would need two GPUs')
def test_torchrun_starts_the_command(tmp_path, seg):
    result = tiny.run(
        *(sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={free_port()}'),
        *('-m', 'mmvim', 'train', seg, '--launcher', 'pytorch', '--work-dir', 'work'),
        *('--cfg-options', 'train_cfg.max_iters=1', 'train_cfg.val_interval=9'),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    [log] = (tmp_path / 'work').glob('*/*.log')
    assert 'GPU number: 2' in log.read_text()


@pytest.mark.slow
def test_one_line_for_all_processes(tmp_path, seg):
    result = tiny.run('bash', tiny.TOOLS / 'dist_train.sh', seg, 2, '--cfg-options', 'modle.type=x', cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count('\n') == 1 and result.stderr.startswith('error: ')


@pytest.mark.parametrize(
    ('script', 'arguments'),
    [
        ('dist_train.sh', ()),
        ('dist_train.sh', ('config.py',)),
        ('dist_train.sh', ('config.py', '--amp')),
        ('dist_train.sh', ('config.py', '0')),
        ('dist_test.sh', ('config.py', '2')),
        ('dist_test.sh', ('config.py', 'x.pth', 'two')),
    ],
)
def test_usage(tmp_path, script, arguments):
    result = tiny.run('bash', tiny.TOOLS / script, *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count('\n') == 1 and 'usage: ' + script in result.stderr
