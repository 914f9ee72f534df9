"""What happens to a run once it has begun: a full disk, pictures that cannot be read, dead processes, Ctrl-C."""

import argparse
import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import CheckpointHook as StockCheckpointHook
from mmengine.runner import Runner

from mmvim.cli.errors import ENVIRONMENT, INTERRUPTED, UserError, describe
from mmvim.datasets.errors import BandsError
from mmvim.datasets.readable import UnreadableFileError
from mmvim.engine.hooks import (
    CheckpointWriteError,
    NonFiniteLossError,
    NonFiniteLossHook,
    RandomStateHook,
    ResumeError,
    UnreadableFilesHook,
)

_STOCK = ('CheckpointHook', 'mmengine.CheckpointHook')
_DURABLE = 'mmvim.CheckpointHook'
_FULL = (errno.ENOSPC, errno.EDQUOT)
_WORKER = re.compile(r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)')
# Of gloo, NCCL and PyTorch's store, where the process at the other end is gone.
_PEER = re.compile(r'Connection (closed|reset|refused)|Broken pipe|remote process exited|gloo/transport|NCCL.*abort')


def add_fault_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what pictures that cannot be read, and losses that are not finite, do to a training.

    Args:
        parser: The parser of ``mmvim train``.

    Examples:
        >>> import argparse
        >>> from mmvim.cli.faults import add_fault_arguments
        >>> parser = argparse.ArgumentParser()
        >>> add_fault_arguments(parser)
        >>> parser.parse_args(['--non-finite', 'skip'])
        Namespace(unreadable='stop', non_finite='skip')
    """
    parser.add_argument(
        '--unreadable',
        choices=('stop', 'skip'),
        default='stop',
        help='what a picture that is truncated, empty or damaged does: end the run and be named (default), or be '
        'named, counted and replaced by another; in validation it ends the run',
    )
    parser.add_argument(
        '--non-finite',
        choices=('stop', 'skip'),
        help='what a loss or gradient that is NaN or infinite does: end the run with the names of the pictures, or '
        'leave out the step (default: nothing looks at it, which saves waiting for the GPU each iteration)',
    )


def save_durably(cfg: Config) -> None:
    """Let mmvim's checkpoint hook take the place of MMEngine's in a config, with the same arguments.

    A hook of another kind, and one that is switched off (``checkpoint=None``), stay.

    Args:
        cfg: The config, changed in place.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli.faults import save_durably
        >>> cfg = Config(dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1000))))
        >>> save_durably(cfg)
        >>> cfg.default_hooks.checkpoint
        {'type': 'mmvim.CheckpointHook', 'interval': 1000}
    """
    hooks = cfg.get('default_hooks') or {}
    hooks.setdefault('checkpoint', {'type': 'CheckpointHook'})  # as MMEngine does
    cfg.default_hooks = hooks
    for hook in (cfg.default_hooks.checkpoint, *(cfg.get('custom_hooks') or ())):
        if isinstance(hook, dict) and hook.get('type') in (*_STOCK, StockCheckpointHook):
            hook['type'] = _DURABLE


def shard_resumably(cfg: Config) -> None:
    """Let mmvim's strategy take the place of MMEngine's where a config shards a model, with the same arguments.

    Args:
        cfg: The config, changed in place.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli.faults import shard_resumably
        >>> cfg = Config(dict(runner_type='FlexibleRunner', strategy=dict(type='FSDPStrategy')))
        >>> shard_resumably(cfg)
        >>> cfg.strategy.type
        'mmvim.FSDPStrategy'
    """
    strategy = cfg.get('strategy')
    if isinstance(strategy, dict) and strategy.get('type') in ('FSDPStrategy', 'mmengine.FSDPStrategy'):
        strategy['type'] = 'mmvim.FSDPStrategy'


def add_fault_hooks(runner: Runner, args: argparse.Namespace) -> None:
    """Register the hooks that the options ask for, unless the config has its own.

    Args:
        runner: The runner of a training.
        args: The command line, with what :func:`add_fault_arguments` adds.

    Examples:
        >>> from argparse import Namespace
        >>> from types import SimpleNamespace
        >>> from mmvim.cli.faults import add_fault_hooks
        >>> hooks = []
        >>> runner = SimpleNamespace(hooks=hooks, register_hook=hooks.append)
        >>> add_fault_hooks(runner, Namespace(unreadable='skip', non_finite='stop'))
        >>> [type(hook).__name__ for hook in hooks]
        ['RandomStateHook', 'UnreadableFilesHook', 'NonFiniteLossHook']
    """
    hooks = [RandomStateHook(), UnreadableFilesHook(args.unreadable)]
    if args.non_finite is not None:
        hooks.append(NonFiniteLossHook(args.non_finite))
    for hook in hooks:
        if not any(isinstance(other, type(hook)) for other in runner.hooks):
            runner.register_hook(hook)


@contextmanager
def run_errors(work_dir: str, resumable: bool = True) -> Iterator[None]:
    """Raise what ends a run from outside as :class:`UserError`, with the checkpoint from which it can go on.

    Args:
        work_dir: The run's.
        resumable: Whether it is a training. Defaults to True.

    Raises:
        UserError: If a checkpoint cannot be written or the disk is full, a picture cannot be read or has other bands
            than the model takes, the loss is not finite, processes begin at different iterations, a data worker or
            another process died, or the user pressed Ctrl-C (then with status 130).

    Examples:
        >>> from mmvim.cli import UserError
        >>> from mmvim.cli.faults import run_errors
        >>> try:
        ...     with run_errors('work_dirs/none', resumable=False):
        ...         raise KeyboardInterrupt
        ... except UserError as error:
        ...     print(error, error.status)
        interrupted; run it again 130
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise UserError('interrupted', _remedy(work_dir, resumable), INTERRUPTED) from error
    except (CheckpointWriteError, NonFiniteLossError, ResumeError) as error:
        raise UserError(error.problem, error.remedy, ENVIRONMENT) from error
    except UnreadableFileError as error:
        # From a data worker it comes with the worker's traceback before it.
        problem, _, remedy = str(error).rpartition('UnreadableFileError: ')[2].strip().partition('; ')
        raise UserError(problem, remedy or 'replace it', ENVIRONMENT, everywhere=True) from error
    except BandsError as error:
        problem, _, remedy = str(error).rpartition('BandsError: ')[2].strip().partition('; ')
        remedy = remedy or 'choose other bands in mmvim.LoadImageBands'
        raise UserError(problem, remedy, ENVIRONMENT, everywhere=True) from error
    except Exception as error:
        text = ' '.join(str(error).split())
        worker = _dead_worker(error)
        if worker is not None:
            raise UserError(
                f'a data worker (process {worker[1]}) died: it {worker[2].rstrip(". ")}',
                'if it was killed, memory may have run out: fewer workers take less '
                f'(--cfg-options train_dataloader.num_workers=1); {_remedy(work_dir, resumable)}',
                ENVIRONMENT,
                everywhere=True,
            ) from error
        if isinstance(error, OSError) and error.errno in _FULL:
            where = f' ({error.filename})' if error.filename else ''
            remedy = f'make room; {_remedy(work_dir, resumable)}'
            raise UserError(f'the disk is full{where}', remedy, ENVIRONMENT, everywhere=True) from error
        lost = isinstance(error, (RuntimeError, OSError)) and _PEER.search(text)
        if lost and int(os.environ.get('WORLD_SIZE', '1')) > 1:
            raise UserError(
                f'another process of this run has ended: {describe(error, 120)}',
                f'see its message; {_remedy(work_dir, resumable)}',
                ENVIRONMENT,
                everywhere=True,
            ) from error
        raise


def _dead_worker(error: BaseException | None) -> re.Match | None:
    """Return what PyTorch says of a worker that died, in its first words: those name the signal.

    It says so wherever the process is when it hears of it, and other code may have made an error of its own of that.
    """
    found = None
    while error is not None:
        found = _WORKER.search(str(error)) or found
        error = error.__cause__ or error.__context__
    return found


def _remedy(work_dir: str, resumable: bool) -> str:
    if not resumable:
        return 'run it again'
    note = Path(work_dir) / 'last_checkpoint'
    if not note.is_file():
        return 'no checkpoint had been saved yet: start again'
    return f'go on from {note.read_text().strip()} with --resume'
