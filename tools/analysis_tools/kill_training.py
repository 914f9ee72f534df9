#!/usr/bin/env python
"""Kill a training at random moments, and see whether what it leaves can be resumed.

    python tools/analysis_tools/kill_training.py                                # 100 times, mmvim's train command
    python tools/analysis_tools/kill_training.py --tool stock                   # MMEngine's runner, mmvim's hook
    python tools/analysis_tools/kill_training.py --tool stock --hook CheckpointHook --kills 20      # MMEngine's hook

A small Vim segments pictures that are made up and saves a checkpoint after every iteration, of which it keeps --keep.
The process gets SIGKILL at a moment drawn at random: a fifth of them while it starts, the others within two seconds
after its first new checkpoint. After each kill: `last_checkpoint` must name a file that loads and is of the iteration
that its name says, every `*.pth` must load, and no iteration that had been saved may be lost. The next run must resume
at that iteration. The exit status is 1 if anything was lost. Each run is forked from this process, which has imported
what a training needs, so that a kill takes seconds; POSIX only.

It measures mmvim itself, from a checkout.
"""

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from taking_turns import ROOT

sys.path.insert(0, str(ROOT))

CONFIG = """
default_scope = 'mmseg'
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')]
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[64.] * 3, bgr_to_rgb=True, size=(32, 32),
        pad_val=0, seg_pad_val=255),
    backbone=dict(type='mmvim.Vim', arch=dict(embed_dims=64, depth=4), img_size=32, patch_size=8, drop_path_rate=0.1),
    decode_head=dict(
        type='FCNHead', in_channels=64, in_index=0, channels=32, num_convs=1, concat_input=False, num_classes=150,
        norm_cfg=dict(type='BN'), loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True)))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ADE20KDataset', reduce_zero_label=True, data_root={data!r}, pipeline=pipeline,
        data_prefix=dict(img_path='images', seg_map_path='masks')))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=10**6)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4))
param_scheduler = dict(type='PolyLR', by_epoch=False, end=10**6)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=10**6),
    checkpoint=dict(type={hook!r}, by_epoch=False, interval=1, max_keep_ckpts={keep}))
randomness = dict(seed=0)
"""
WINDOW = 2.0  # seconds after the first new checkpoint
PATIENCE = 300.0  # seconds until it is there


def make_data(root: Path) -> None:
    """Write four pictures and label maps."""
    import cv2
    import numpy as np

    generator = np.random.default_rng(0)
    for folder in ('images', 'masks'):
        (root / folder).mkdir(parents=True)
    for index in range(4):
        labels = generator.integers(1, 4, (4, 4)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        cv2.imwrite(str(root / 'images' / f'{index}.jpg'), np.stack([labels * 60] * 3, -1))
        cv2.imwrite(str(root / 'masks' / f'{index}.png'), labels)


def train(config: Path, work: Path, tool: str) -> None:
    """Train, from the last checkpoint if there is one."""
    if tool == 'mmvim':
        from mmvim.cli.main import main as mmvim

        mmvim(['train', str(config), '--work-dir', str(work), '--resume'])
    else:
        from mmengine.config import Config
        from mmengine.runner import Runner

        from mmvim.checkpoints import allow_checkpoint_globals

        allow_checkpoint_globals()
        cfg = Config.fromfile(config)
        cfg.work_dir, cfg.resume = str(work), True
        Runner.from_cfg(cfg).train()


def start(config: Path, work: Path, tool: str, log: Path) -> int:
    """Start a training in a process of its own, and return its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        train(config, work, tool)
    except BaseException:
        traceback.print_exc()
    os._exit(3)  # it trains for ever, so that its end is a failure


def named(work: Path) -> str | None:
    """Return what ``last_checkpoint`` says, None if it is not there."""
    note = work / 'last_checkpoint'
    return note.read_text() if note.is_file() else None


def inspect(work: Path) -> tuple[int, list[str]]:
    """Load everything in a work dir; the last iteration saved, and what is wrong."""
    from mmvim.checkpoints import CheckpointError, check_bytes, load_file

    wrong, iterations = [], {}
    for path in sorted(work.glob('*.pth')):
        try:
            check_bytes(str(path))
            iterations[path.name] = load_file(str(path))['meta']['iter']
        except (CheckpointError, KeyError) as error:
            wrong.append(f'{path.name} does not load: {error}')
    last = named(work)
    if last is None:
        return 0, wrong + ([] if not iterations else ['there is no last_checkpoint'])
    name = Path(last).name
    if name not in iterations:
        return 0, [*wrong, f'last_checkpoint names {last!r}, which ' + ('is damaged' if last in wrong else 'is lost')]
    if name != f'iter_{iterations[name]}.pth':
        wrong.append(f'{name} is of iteration {iterations[name]}')
    return iterations[name], wrong


class Killer:
    """Runs of a training, each killed, and what was found after each.

    Args:
        folder: Where data, config and work dir go; it may hold those of an earlier call, which then goes on.
        tool: 'mmvim' or 'stock'.
        hook: The type of the checkpoint hook.
        keep: How many checkpoints it keeps.
        seed: Of the moments.
    """

    def __init__(self, folder: Path, tool: str, hook: str, keep: int, seed: int) -> None:
        self.work, self.log, self.config = folder / 'work', folder / 'log', folder / 'training.py'
        self.tool, self.random = tool, random.Random(seed)
        self.found: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.startup = 5.0  # seconds until the first new checkpoint; measured by each run that gets there
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / 'data').is_dir():
            make_data(folder / 'data')
        self.config.write_text(CONFIG.format(data=str(folder / 'data'), hook=hook, keep=keep))
        self.work.mkdir(exist_ok=True)

    def kill(self, early: bool) -> None:
        """Start a run, kill it and look."""
        before, _ = inspect(self.work)
        note = named(self.work)
        pid, begun = start(self.config, self.work, self.tool, self.log), time.monotonic()
        if early:
            time.sleep(self.random.uniform(0, self.startup))
        else:
            while named(self.work) == note and time.monotonic() < begun + PATIENCE:
                time.sleep(0.005)
                if os.waitpid(pid, os.WNOHANG)[0]:
                    raise SystemExit(f'error: the training ended by itself; its log:\n{self.log.read_text()[-3000:]}')
            self.startup = time.monotonic() - begun
            time.sleep(self.random.uniform(0, WINDOW))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        partial = len(list(self.work.glob('*.partial')))
        after, wrong = inspect(self.work)
        resumed = re.findall(r'resumed epoch: \d+, iter: (\d+)', self.log.read_text())
        if not os.WIFSIGNALED(status):
            wrong.append('it ended by itself')
        if after < before:
            wrong.append(f'iteration {before} was saved, and {after} is left')
        if resumed and int(resumed[0]) != before:
            wrong.append(f'it resumed at {resumed[0]} and not at {before}')
        if not early and before and not resumed:
            wrong.append('it did not resume')
        self.found['kills'] += 1
        self.found['early'] += early
        self.found['partial'] += bool(partial)
        self.found['resumed'] += bool(resumed)
        self.found['iterations'] += max(after - before, 0)
        self.found['faults'] += bool(wrong)
        self.wrong += [f'kill {self.found["kills"]}: {text}' for text in wrong]
        if wrong:  # so that the next one starts from something sound
            for path in (*self.work.glob('*.pth'), self.work / 'last_checkpoint'):
                path.unlink(missing_ok=True)

    def table(self) -> str:
        """Return what was found, as a table."""
        found = self.found
        rows = [
            ('kills', found['kills']),
            ('of them before the first new checkpoint', found['early']),
            ('of them while a file was being written', found['partial']),
            ('iterations trained and saved', found['iterations']),
            ('runs that resumed, each at the last iteration saved', found['resumed']),
            ('kills after which something was lost or did not load', found['faults']),
        ]
        return '\n'.join(['| | |', '|-|-|', *(f'| {name} | {value} |' for name, value in rows)])


def main() -> None:
    """Kill, look and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=100, help='how many. Defaults to 100')
    parser.add_argument('--tool', choices=('mmvim', 'stock'), default='mmvim', help='what trains. Defaults to mmvim')
    parser.add_argument(
        '--hook',
        default='mmvim.CheckpointHook',
        help="the checkpoint hook of the config. Defaults to mmvim.CheckpointHook, which mmvim's own tool takes anyway",
    )
    parser.add_argument('--keep', type=int, default=1, help='max_keep_ckpts. Defaults to 1, the hardest')
    parser.add_argument('--seed', type=int, default=0, help='of the moments. Defaults to 0')
    parser.add_argument('--folder', type=Path, help='keep everything there. Defaults to a temporary folder')
    args = parser.parse_args()
    if args.kills < 1 or args.keep < 1:
        parser.error('--kills and --keep must be 1 or more')
    import torch

    torch.set_num_threads(1)  # a fork has the threads of this process no more
    import mmseg.datasets
    import mmseg.models  # noqa: F401

    import mmvim.models  # noqa: F401

    with tempfile.TemporaryDirectory() as temporary:
        killer = Killer((args.folder or Path(temporary)).resolve(), args.tool, args.hook, args.keep, args.seed)
        for number in range(args.kills):
            killer.kill(early=number > 0 and killer.random.random() < 0.2)
            print(f'\r{number + 1} of {args.kills}, {killer.found["faults"]} faults', end='', file=sys.stderr)
    print(file=sys.stderr)
    print(killer.table())
    for text in killer.wrong:
        print(text)
    sys.exit(1 if killer.wrong else 0)


if __name__ == '__main__':
    main()
