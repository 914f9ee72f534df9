#!/usr/bin/env python
"""Feed damaged checkpoints and odd options to mmvim's readers, and see whether anything but their own error comes out.

    python tools/fuzz.py --minutes 60                         # both targets by turns, with atheris where it is there
    python tools/fuzz.py --target checkpoint --minutes 5 --engine plain --seed 7
    python tools/fuzz.py --replay tests/corpus                # only the inputs that once failed

Targets: `checkpoint`, a file that `load_file`, `check_bytes`, `read_for_model`, `read` and `load_backbone` of
mmvim.checkpoints read, which may raise CheckpointError; `options`, words behind --cfg-options, which may be a usage
error or a UserError. A finding is any other exception, a process that dies, an input that takes longer than --limit
seconds, or one that needs more than --memory MiB. It is written to --out, with its traceback; the exit status is 1.

Both engines start from seeds that are made here (each format of a checkpoint that mmvim reads) and from tests/corpus,
the inputs that once failed. The plain one changes bytes at random, half of the time inside of an archive or of a header
whose checksums and lengths are then put right. atheris (https://github.com/google/atheris; pip install "mmvim[fuzz]")
does the same, and keeps what reaches new lines of Python. Two minutes each run in a process of its own.

It is for maintainers of mmvim, from a checkout.
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

from fuzz_inputs import ARCH, damage, inputs, make_seeds  # noqa: E402

CORPUS = ROOT / 'tests/corpus'
TARGETS = ('checkpoint', 'options')
SLICE = 120.0  # seconds of a process
CONFIG = {
    'default_scope': 'mmvim',
    'model': {'type': 'Vim', 'arch': {'embed_dims': 8, 'depth': 2}, 'norm_cfg': {'type': 'LN2d'}, 'init_cfg': None},
    'train_dataloader': {'batch_size': 2, 'dataset': {'pipeline': [{'type': 'Resize', 'scale': 8}]}},
    'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'AdamW', 'lr': 1e-3}, 'clip_grad': None},
    'train_cfg': {'by_epoch': True, 'max_epochs': 2},
    'pair': ({'a': 1},),
}


class Overtime(BaseException):
    """What the alarm raises; no reader catches it."""


# --- what is tried ---------------------------------------------------------------------------------------------------


def try_checkpoint(data: bytes, folder: Path) -> None:
    """Read bytes as a checkpoint in every way; what raises anything but CheckpointError is a finding."""
    from mmvim import checkpoints
    from mmvim.models import Vim

    path = folder / 'fuzzed.pth'
    path.write_bytes(data)
    looks: tuple[Callable[[str], object], ...] = (
        checkpoints.load_file,
        checkpoints.check_bytes,
        checkpoints.read_for_model,
        lambda file: checkpoints.read(file, arch=ARCH),
        lambda file: checkpoints.load_backbone(Vim(ARCH, img_size=32), file),
    )
    for look in looks:
        with contextlib.suppress(checkpoints.CheckpointError):
            look(str(path))


def try_options(data: bytes, folder: Path) -> None:
    """Read bytes, a word a line, as options and merge them into a config; they may be a usage error or a UserError."""
    del folder
    from mmengine.config import Config

    from mmvim.cli import UserError, config_parser
    from mmvim.cli.options import merge_options

    words = [os.fsdecode(word) for word in data.replace(b'\0', b'').split(b'\n')]
    quiet = io.StringIO()
    with (
        contextlib.suppress(SystemExit, UserError),
        contextlib.redirect_stderr(quiet),
        contextlib.redirect_stdout(quiet),
    ):
        options = config_parser('train').parse_args(['x.py', '--cfg-options', *words]).cfg_options
        merge_options(Config(CONFIG), options or {})


TRY = {'checkpoint': try_checkpoint, 'options': try_options}


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise :class:`Overtime` in whatever Python code runs after so many seconds; POSIX, the main thread."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Overtime(f'longer than {seconds} s')

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)


# --- a slice: one process --------------------------------------------------------------------------------------------


def run_slice(args: argparse.Namespace, folder: Path) -> None:
    """Try inputs of one target until the time is over; what is being tried lies in ``folder/current``."""
    warnings.simplefilter('ignore')
    target, current, count = TRY[args.target], folder / 'current', 0

    def once(data: bytes) -> None:
        nonlocal count
        current.write_bytes(data)
        with at_most(args.limit):
            target(data, folder)
        count += 1
        if count % 50 == 0:
            (folder / 'count').write_text(str(count))

    if args.engine == 'atheris':
        import atheris

        with atheris.instrument_imports(include=['mmvim']):
            for module in ('mmvim.checkpoints', 'mmvim.cli.options'):
                importlib.import_module(module)
        words = [sys.argv[0], str(args.corpus), f'-max_total_time={int(args.seconds)}', f'-seed={args.seed}']
        words += [
            '-rss_limit_mb=0',
            '-timeout=0',
            '-handle_alrm=0',
            '-max_len=65536',
            '-len_control=0',
            f'-artifact_prefix={folder}/',
            '-print_final_stats=0',
        ]

        def mutate(data: bytes, most: int, seed: int) -> bytes:
            rng = random.Random(seed)
            return (damage(data, rng) if rng.random() < 0.7 else atheris.Mutate(data, most))[:most]

        atheris.Setup(words, once, custom_mutator=mutate)
        _limit_memory(args.memory)
        atheris.Fuzz()  # ends the process
    _limit_memory(args.memory)
    rng, seeds, end = random.Random(args.seed), inputs(args.corpus), time.monotonic() + args.seconds
    while time.monotonic() < end:
        once(damage(rng.choice(seeds), rng))
    (folder / 'count').write_text(str(count))


def _limit_memory(mebibytes: int) -> None:
    """Let allocations fail that would need more than so many MiB beside what the process has mapped by now."""
    mapped = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (mebibytes << 20),) * 2)


# --- the whole run ---------------------------------------------------------------------------------------------------


def replay(folder: Path, limit: int) -> list[str]:
    """Try the inputs of ``folder/<target>/`` in this process; return a line for each finding."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for target in TARGETS:
            for path in sorted((folder / target).glob('*')):
                try:
                    with at_most(limit):
                        TRY[target](path.read_bytes(), Path(scratch))
                except (Exception, Overtime) as error:
                    found.append(f'{target}/{path.name}: {type(error).__name__}: {error}')
    return found


def run_process(command: list[str], seconds: float) -> tuple[int | str, str]:
    """Run a slice; return its status, or 'hung' where even the alarm in it did not ring, and what it printed."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            env=env,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        return 'hung', str(error)
    return done.returncode, done.stdout


def fuzz(args: argparse.Namespace) -> list[Path]:
    """Run slices of the targets by turns until the time is over; return the inputs that failed."""
    end, number, counts, found = time.monotonic() + args.minutes * 60, 0, dict.fromkeys(args.target, 0), []
    with tempfile.TemporaryDirectory(dir='/dev/shm' if os.path.isdir('/dev/shm') else None) as scratch:
        folders = {target: Path(scratch, target) for target in args.target}
        for target, folder in folders.items():
            make_seeds(target, folder)
            for path in (CORPUS / target).glob('*'):
                shutil.copy(path, folder)
        while (left := end - time.monotonic()) > 1:
            target = args.target[number % len(args.target)]
            work = Path(tempfile.mkdtemp(dir=scratch))
            command = [sys.executable, __file__, '--slice', str(work), '--target', target, '--engine', args.engine]
            command += ['--corpus', str(folders[target]), '--seconds', str(min(SLICE, left))]
            command += ['--seed', str(args.seed + number), '--limit', str(args.limit), '--memory', str(args.memory)]
            status, output = run_process(command, 2 * SLICE + 300)
            counts[target] += int((work / 'count').read_text()) if (work / 'count').exists() else 0
            if status != 0:
                args.out.mkdir(parents=True, exist_ok=True)
                path = args.out / f'{target}_{args.seed + number}'
                if (work / 'current').exists():
                    shutil.copy(work / 'current', path)
                path.with_suffix('.txt').write_text(f'status {status}\n{output}')
                found.append(path)
                last = ([line for line in output.splitlines() if line.strip()] or ['no word'])[-1]
                print(f'{path}: status {status}, {last}', flush=True)
                if len(found) >= args.findings:
                    break
            shutil.rmtree(work)
            number += 1
    told = ', '.join(f'{count} of {target}' for target, count in counts.items())
    print(f'{args.engine}, seed {args.seed}, {number} processes: {told}; {len(found)} findings', flush=True)
    return found


def parse_args() -> argparse.Namespace:
    """Return the command line; ``--slice``, ``--corpus`` and ``--seconds`` are how a run starts its processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=60, help='how long. Defaults to 60')
    parser.add_argument('--target', nargs='+', choices=TARGETS, default=list(TARGETS), help='defaults to both')
    parser.add_argument('--engine', choices=('atheris', 'plain'), help='defaults to atheris where it is installed')
    parser.add_argument('--seed', type=int, default=0, help='of the random numbers. Defaults to 0')
    parser.add_argument('--limit', type=int, default=20, help='seconds that one input may take. Defaults to 20')
    parser.add_argument('--memory', type=int, default=2048, help='MiB that one input may take. Defaults to 2048')
    parser.add_argument('--findings', type=int, default=10, help='end after so many. Defaults to 10')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/fuzz'), help='defaults to work_dirs/fuzz')
    parser.add_argument('--replay', type=Path, metavar='DIR', help='only try the inputs of DIR/<target>/')
    for name, kind in (('--slice', Path), ('--corpus', Path), ('--seconds', float)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.replay and not any(path for target in TARGETS for path in (args.replay / target).glob('*')):
        folders = ' or '.join(f'{args.replay / target}' for target in TARGETS)
        parser.error(f'--replay {args.replay}: there is no input in {folders}; give a folder such as tests/corpus')
    args.engine = args.engine or ('atheris' if importlib.util.find_spec('atheris') else 'plain')
    return args


def main() -> int:
    """Run a slice, replay a corpus, or fuzz."""
    args = parse_args()
    if args.slice:
        args.target = args.target[0]
        try:
            run_slice(args, args.slice)
        except (Exception, Overtime):
            traceback.print_exc()
            return 1
        return 0
    if args.replay:
        found = replay(args.replay, args.limit)
        print('\n'.join(found) or 'no findings')
        return bool(found)
    return bool(fuzz(args))


if __name__ == '__main__':
    sys.exit(main())
