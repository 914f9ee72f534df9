"""Several processes, on one CPU: the numbers of one process, an uneven end, a process that dies, and resuming."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import tiny_runs as tiny
import torch
from test_faults import log, saved

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(torch.cuda.is_available(), reason='the two processes would need two GPUs'),
]
HERE = str(Path(__file__).parent)
# No numbers are drawn, and a mean over all pixels, so that a batch can be divided.
PLAIN = """
_base_ = './{base}'
custom_imports = dict(imports=['fault_parts'])
custom_hooks = [dict(type='Record')]
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=4, sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True), dataset=dict(pipeline=pipeline))
model = dict(
    backbone=dict(drop_path_rate=0.),
    decode_head=dict(
        dropout_ratio=0., norm_cfg=dict(_delete_=True, type='GN', num_groups=4),
        loss_decode=dict(avg_non_ignore=False)))
param_scheduler = None
randomness = dict(seed=5)
val_cfg = val_dataloader = val_evaluator = None
train_cfg = dict(max_iters=4)
"""
RANDOM = """
_base_ = './{base}'
custom_imports = dict(imports=['fault_parts'])
custom_hooks = [dict(type='Record')]
model = dict(decode_head=dict(norm_cfg=dict(_delete_=True, type='GN', num_groups=4)))
val_cfg = val_dataloader = val_evaluator = None
"""


def config(seg, text=PLAIN, more='', name='plain'):
    path = seg.with_name(f'{name}_{seg.name}')
    path.write_text(text.format(base=seg.name) + more)
    return path


def free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return str(listener.getsockname()[1])


def train(folder, cfg, processes, *options, work='work', **env):
    """Train by ``tools/train.py`` or ``tools/dist_train.sh``; what the processes recorded."""
    tool = (sys.executable, tiny.TOOLS / 'train.py', cfg)
    if processes > 1:
        tool = ('bash', tiny.TOOLS / 'dist_train.sh', cfg, processes)
    result = tiny.run(*tool, '--work-dir', work, *options, cwd=folder, PORT=free_port(), PYTHONPATH=HERE, **env)
    assert result.returncode == 0, result.stderr[-3000:]
    return records(folder / work, processes)


def records(work, processes):
    return [torch.load(work / f'record_{rank}.pt', weights_only=True) for rank in range(processes)]


def losses(found, together=1):
    """The mean loss of each step over processes and over the iterations whose gradients are accumulated."""
    values = torch.tensor([[one['loss'] for one in record['iterations']] for record in found], dtype=torch.float64)
    return values.reshape(len(found), -1, together).mean((0, 2))


def test_same_losses_as_one_process(tmp_path, seg):
    """Four pictures a step: at once, by two processes, in two parts, and by two processes in two parts."""
    cfg = config(seg)
    one = train(tmp_path, cfg, 1, work='one')
    two_pictures, one_picture = 'train_dataloader.batch_size=2', 'train_dataloader.batch_size=1'
    in_parts = ('optim_wrapper.accumulative_counts=2', 'train_cfg.max_iters=8')
    others = {
        'two processes': (train(tmp_path, cfg, 2, '--cfg-options', two_pictures, work='two'), 1),
        'two parts': (train(tmp_path, cfg, 1, '--cfg-options', two_pictures, *in_parts, work='parts'), 2),
        'both': (train(tmp_path, cfg, 2, '--cfg-options', one_picture, *in_parts, work='both'), 2),
    }
    wanted = losses(one)
    assert len(wanted) == 4 and wanted[0] != wanted[-1]
    for name, (found, together) in others.items():
        assert (losses(found, together) / wanted - 1).abs().max() < 1e-5, name
        for key, value in one[0]['weights'].items():
            other = found[0]['weights'].get(f'module.{key}', found[0]['weights'].get(key))
            assert torch.allclose(other, value, rtol=1e-4, atol=2e-5), f'{name}: {key}'
        for key, value in found[0]['weights'].items():
            assert torch.equal(value, found[-1]['weights'][key]), f'{name}: {key} differs between processes'
    # The control: another batch has other losses.
    half = train(tmp_path, cfg, 1, '--cfg-options', two_pictures, work='half')
    assert (losses(half) / wanted - 1).abs().max() > 1e-4


def test_uneven_last_batch(tmp_path, seg):
    """Five pictures for two processes with two pictures each: all are seen, and no process waits for the other."""
    more = (
        "train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2)\n"
        "train_dataloader = dict(sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True))\n"
        'default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1))\n'
    )
    found = train(tmp_path, config(seg, more=more), 2, '--cfg-options', 'train_dataloader.batch_size=2')
    for epoch in range(2):
        batches = [record['iterations'][2 * epoch : 2 * epoch + 2] for record in found]
        assert [[len(batch['pictures']) for batch in process] for process in batches] == [[2, 1]] * 2
        seen = {name for process in batches for batch in process for name in batch['pictures']}
        assert seen == {f'ADE_{index:03d}.jpg' for index in range(5)}
    assert [len(record['iterations']) for record in found] == [4, 4]


@pytest.mark.parametrize('workers', [0, 2])
def test_resumes_as_if_never_stopped(tmp_path, seg, workers):
    """Crops, flips, colours, dropout and stochastic depth of two processes, which draw different numbers."""
    more = f'randomness = dict(seed=7, diff_rank_seed=True)\ntrain_dataloader = dict(num_workers={workers})\n'
    cfg = config(seg, RANDOM, more)
    straight = train(tmp_path, cfg, 2, work='straight')
    train(tmp_path, cfg, 2, '--cfg-options', 'train_cfg.max_iters=2', work='parted')
    saved_state = torch.load(tmp_path / 'parted/iter_2.pth', weights_only=False)
    assert len(saved_state['random_state']['ranks']) == 2
    resumed = train(tmp_path, cfg, 2, '--resume', work='parted')
    for rank in range(2):
        assert resumed[rank]['iterations'] == straight[rank]['iterations'][2:], rank
    assert straight[0]['iterations'] != straight[1]['iterations']
    first, second = (torch.load(tmp_path / w / 'iter_4.pth', weights_only=False) for w in ('straight', 'parted'))
    assert first['param_schedulers'] == second['param_schedulers']
    for key, state in first['optimizer']['state'].items():
        for name, value in state.items():
            assert torch.equal(value, second['optimizer']['state'][key][name]), (key, name)
    for one, other in zip(first['random_state']['ranks'], second['random_state']['ranks'], strict=True):
        assert torch.equal(one['torch'], other['torch']) and one['python'] == other['python']
        assert torch.equal(one['numpy'][1], other['numpy'][1])
    # The control: without the random states the same two iterations have other losses.
    del saved_state['random_state']
    torch.save(saved_state, tmp_path / 'without.pth')
    control = train(tmp_path, cfg, 2, '--resume', tmp_path / 'without.pth', work='control')
    assert control[1]['iterations'] != straight[1]['iterations'][2:]


def test_a_process_is_killed(tmp_path, seg):
    """The others end as well, within the minute that is promised, and say why; what was saved is whole, and goes on."""
    killed = config(seg, more="custom_hooks = [dict(type='SignalAt', iteration=4, kind='SIGKILL', rank=1)]\n", name='k')
    result = tiny.run(  # which ends it after some minutes, if nothing else does
        *('bash', tiny.TOOLS / 'dist_train.sh', killed, 2, '--work-dir', 'work'),
        *('--cfg-options', 'train_dataloader.batch_size=2'),
        cwd=tmp_path,
        PORT=free_port(),
        PYTHONPATH=HERE,
    )
    ended = time.time()
    assert result.returncode != 0
    assert ended - (tmp_path / 'work/signalled').stat().st_mtime < 60
    assert 'SIGKILL' in result.stderr and 'rank' in result.stderr
    assert saved(tmp_path / 'work') == 2
    found = train(tmp_path, config(seg), 2, '--resume', '--cfg-options', 'train_dataloader.batch_size=2')
    assert [one['iter'] for one in found[1]['iterations']] == [3, 4] and saved(tmp_path / 'work') == 4


@pytest.mark.parametrize('counts', [1, 2])
def test_a_loss_of_one_process_is_not_finite(tmp_path, seg, counts):
    """All processes leave the step out, also where gradients are accumulated, and go on with equal weights."""
    more = f"""
custom_hooks = [dict(type='Record'), dict(type='NaNAt', iteration=2, rank=1)]
optim_wrapper = dict(accumulative_counts={counts})
"""
    found = train(tmp_path, config(seg, more=more), 2, '--non-finite', 'skip', '--cfg-options', 'train_cfg.max_iters=6')
    for key, value in found[0]['weights'].items():
        assert torch.equal(value, found[1]['weights'][key]) and value.isfinite().all(), key
    text = log(tmp_path / 'work')
    assert 'the loss of iteration 2 is not finite (decode.loss_ce=nan)' in text and '1 so far' in text
    named = text.partition('is not finite (decode.loss_ce=nan), on ')[2].partition(';')[0]
    assert {Path(name).name for name in named.split(', ')} == set(found[1]['iterations'][1]['pictures'])
    # The control: the step was left out by the process whose loss was finite, too.
    straight = train(tmp_path, config(seg), 2, '--cfg-options', 'train_cfg.max_iters=6', work='straight')
    assert found[0]['iterations'][2]['loss'] != straight[0]['iterations'][2]['loss']


def test_sharded(tmp_path, seg):
    """FSDP by MMEngine's FlexibleRunner: DDP's losses, a part of the checkpoint a process, and resuming from it."""
    sharded = "runner_type = 'FlexibleRunner'\nstrategy = dict(type='FSDPStrategy')\n"
    options = ('--cfg-options', 'train_dataloader.batch_size=2')
    whole = train(tmp_path, config(seg), 2, *options, work='whole')
    shards = train(tmp_path, config(seg, more=sharded, name='shards'), 2, *options, work='shards')
    assert (losses(shards) / losses(whole) - 1).abs().max() < 1e-5

    cfg = config(seg, RANDOM, sharded + 'randomness = dict(seed=7, diff_rank_seed=True)\n', name='random')
    straight = train(tmp_path, cfg, 2, work='straight')
    train(tmp_path, cfg, 2, '--cfg-options', 'train_cfg.max_iters=2', work='parted')
    work = tmp_path / 'parted'
    assert (work / 'last_checkpoint').read_text() == str(work / 'iter_2.pth')
    assert sorted(part.name for part in (work / 'iter_2.pth').iterdir()) == ['rank0.pth', 'rank1.pth']
    assert not list(work.glob('*.partial'))
    resumed = train(tmp_path, cfg, 2, '--resume', work='parted')
    for rank in range(2):
        assert resumed[rank]['iterations'] == straight[rank]['iterations'][2:], rank

    part = work / 'iter_4.pth/rank1.pth'
    part.write_bytes(part.read_bytes()[:-1000])
    command = ('bash', tiny.TOOLS / 'dist_train.sh', cfg, 2, '--work-dir', work, '--resume')
    result = tiny.run(*command, cwd=tmp_path, PORT=free_port(), PYTHONPATH=HERE)
    assert result.returncode != 0 and 'iter_4.pth/rank1.pth' in result.stderr and 'damaged' in result.stderr


def test_a_sharded_step_is_left_out(tmp_path, seg):
    more = (
        "runner_type = 'FlexibleRunner'\nstrategy = dict(type='FSDPStrategy')\n"
        "custom_hooks = [dict(type='Record'), dict(type='NaNAt', iteration=2, rank=1)]\n"
    )
    found = train(tmp_path, config(seg, more=more), 2, '--non-finite', 'skip')
    values = torch.tensor([[one['loss'] for one in record['iterations']] for record in found])
    assert values.isfinite().tolist() == [[True] * 4, [True, False, True, True]]
    assert 'the loss of iteration 2 is not finite' in log(tmp_path / 'work')


class Counting(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and counts."""

    requests: list = []  # noqa: RUF012 one list for all requests is the purpose

    def do_GET(self):
        self.requests.append(self.path)
        super().do_GET()

    def log_message(self, *arguments):
        pass


def test_weights_are_fetched_once_a_node(tmp_path, seg):
    """Two nodes without a common disk, which two folders stand for, with two processes each."""
    from mmvim import cli

    cfg = config(seg, more="custom_hooks = [dict(type='Record')]\n")
    served = tmp_path / 'served'
    served.mkdir()
    torch.save({'state_dict': cli.build_model(cli.load_config(str(cfg))).state_dict()}, served / 'weights.pth')
    Counting.requests.clear()
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Counting, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, port, nodes = f'http://127.0.0.1:{server.server_port}/weights.pth', free_port(), []
    try:
        for rank in range(2):
            folder = tmp_path / f'node{rank}'
            folder.mkdir()
            command = [
                *(sys.executable, '-m', 'torch.distributed.run', '--nnodes=2', f'--node_rank={rank}'),
                *('--nproc_per_node=2', '--master_addr=127.0.0.1', f'--master_port={port}'),
                *(str(tiny.TOOLS / 'train.py'), str(cfg), '--launcher', 'pytorch', '--work-dir', 'work'),
                *('--cfg-options', f'load_from={url}', 'train_dataloader.batch_size=1', 'train_cfg.max_iters=2'),
            ]
            env = {
                **os.environ,
                'PYTHONPATH': f'{tiny.ROOT}:{HERE}',
                'OMP_NUM_THREADS': '1',
                'TORCH_HOME': str(folder / 'home'),
            }
            nodes.append(subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True))
        for node in nodes:
            _, error = node.communicate(timeout=300)
            assert node.returncode == 0, error[-3000:]
    finally:
        for node in nodes:
            node.kill()
        server.shutdown()
    assert Counting.requests == ['/weights.pth'] * 2
    assert len(list(tmp_path.glob('node*/home/**/weights.pth'))) == 2
    assert len(list(tmp_path.glob('node*/**/record_*.pt'))) == 4
