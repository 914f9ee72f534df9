"""Checkpoints that neither a killed process nor a full disk nor a power cut leaves half written."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, is_main_process, master_only
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as StockCheckpointHook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint

from mmvim.engine.durable import PARTIAL, discard, flush, publish, write_text
from mmvim.engine.hooks.random_state import RandomStateHook
from mmvim.registry import HOOKS

LAST = 'last_checkpoint'
_OUTDATED = 'outdated_ckpts'


class CheckpointWriteError(OSError):
    """Error for a checkpoint that could not be written; those that were there are as they were.

    Args:
        problem: What could not be written and why.
        remedy: What to do about it.

    Examples:
        >>> from mmvim.engine.hooks import CheckpointWriteError
        >>> print(CheckpointWriteError('work/iter_2.pth cannot be written: no space', 'make room'))
        work/iter_2.pth cannot be written: no space; make room
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f'{problem}; {remedy}')
        self.problem, self.remedy = problem, remedy


class _Saving:
    """A runner whose ``save_checkpoint`` goes through a hook, for the stock hook's own methods."""

    def __init__(self, runner: Runner, save: Callable[..., None]) -> None:
        self.runner, self.save_checkpoint = runner, save

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)


class _Keeping:
    """A file backend that notes what is to be removed instead of removing it."""

    def __init__(self, backend: Any, removed: list[str]) -> None:
        self.backend, self.removed = backend, removed

    def remove(self, path: str) -> None:
        self.removed.append(str(path))

    rmtree = remove

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


@HOOKS.register_module()
class CheckpointHook(StockCheckpointHook):
    """Save checkpoints so that the folder holds whole ones only, whenever the process or the machine dies.

    MMEngine's own hook writes in place and removes the old checkpoint first: a process killed in between leaves half a
    file, or none, and ``last_checkpoint`` names it. This one writes to a temporary file (``*.partial``), has the system
    put it on the disk (``fsync``) and renames it; then the file ``last_checkpoint`` is replaced in the same way, and
    only then are older checkpoints removed that ``max_keep_ckpts`` or a better one made superfluous. Those of best
    scores are written alike, and so are the folders of sharded checkpoints. The disk needs room for one more checkpoint
    than are kept. What a killed run left (a temporary file, a checkpoint that was about to be removed) is removed when
    training goes on. The order of checkpoints follows from iterations alone, not from any clock.

    In a run of several processes it collects the states of all random number generators for
    :class:`mmvim.engine.hooks.RandomStateHook`.

    The arguments are those of MMEngine's hook. With ``backend_args`` of an object store, which writes objects as a
    whole, the store's own way serves, and the rest of the order holds.

    Raises:
        CheckpointWriteError: While training, if a checkpoint cannot be written, as on a full disk. No part of it is
            left, and ``last_checkpoint`` and the checkpoint that it names are as before.

    Examples:
        >>> from mmvim.registry import HOOKS
        >>> # in a config: default_hooks = dict(checkpoint=dict(type='mmvim.CheckpointHook', interval=1000))
        >>> hook = HOOKS.build(dict(type='mmvim.CheckpointHook', interval=1000, by_epoch=False, max_keep_ckpts=2))
        >>> hook.interval, hook.max_keep_ckpts
        (1000, 2)
    """

    file_backend: Any

    def before_train(self, runner: Runner) -> None:
        """Find the folder, and remove what a run left that was killed while it saved.

        Args:
            runner: The runner of the training.
        """
        super().before_train(runner)
        self._removed: list[str] = []
        self._last_whole: str | None = None
        self._atomic = self.file_client_args is None and isinstance(self.file_backend, LocalBackend)
        if not is_main_process():
            return
        discard(Path(runner.work_dir, LAST + PARTIAL))
        if self._atomic:
            for path in Path(self.out_dir).glob(f'*.pth{PARTIAL}'):
                discard(path)
            used = {Path(path).name for path in (runner._load_from, self._named(runner)) if path}
            for name in set(runner.message_hub.runtime_info.get(_OUTDATED, [])) - used:
                discard(Path(self.out_dir, name))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        runner = getattr(runner, 'runner', runner)
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                old = self.filename_tmpl.format(self.keep_ckpt_ids[0])
                self._removed.append(str(self.file_backend.join_path(self.out_dir, old)))
            self.keep_ckpt_ids.append(step)  # a deque of this length, so that the oldest goes
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._save(
            runner,
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            path = Path(runner.work_dir, LAST)
            try:
                write_text(path, str(self.last_ckpt))
            except OSError as error:
                raise self._error(path, error) from error
            self._last_whole = str(self.last_ckpt)
            self._remove_superfluous()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        def save(*args: Any, **options: Any) -> None:
            self._save(runner, *args, **options)

        backend, self.file_backend = self.file_backend, _Keeping(self.file_backend, self._removed)
        try:
            super()._save_best_checkpoint(_Saving(runner, save), metrics)
        finally:
            self.file_backend = backend
        if is_main_process():
            self._remove_superfluous()

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """Write the part of a checkpoint that is to be published, under a name with the digest of its bytes."""
        if not self._atomic:
            super()._publish_model(runner, ckpt_path)
            return
        source = Path(ckpt_path)
        partial = source.with_name(f'{source.stem}.pth{PARTIAL}')
        try:
            checkpoint = _load_checkpoint(ckpt_path, map_location='cpu')
            kept = {key: value for key, value in checkpoint.items() if key in self.published_keys}
            with open(partial, 'wb') as stream:  # given a path, PyTorch writes its name into the file
                torch.save(kept, stream)
            digest = hashlib.sha256(partial.read_bytes()).hexdigest()[:8]
            target = source.with_name(f'{source.stem}-{digest}.pth')
            publish(partial, target, replace_files=False)
        except OSError as error:
            raise self._error(partial, error) from error
        finally:
            discard(partial)
        runner.logger.info(f'{", ".join(kept)} of {ckpt_path} are published as {target}')

    def _save(self, runner: Runner, out_dir: str, filename: str, *args: Any, **options: Any) -> None:
        """Let the runner write a temporary file, and give it its name once it is whole and on the disk."""
        for hook in runner.hooks:
            if isinstance(hook, RandomStateHook):
                hook.collect()
        target = Path(out_dir, filename)
        backend = getattr(self.file_backend, 'backend', self.file_backend)
        self._removed[:] = [path for path in self._removed if os.path.abspath(path) != os.path.abspath(target)]
        # Names alone: the folder may have been copied when a run goes on, and the other copy is not this run's.
        runner.message_hub.update_info(_OUTDATED, [Path(path).name for path in self._removed])
        if not self._atomic or not isinstance(backend, LocalBackend):
            runner.save_checkpoint(out_dir, filename, *args, **options)
            return
        partial = target.with_name(target.name + PARTIAL)
        try:
            runner.save_checkpoint(out_dir, partial.name, *args, **options)
            barrier()  # a sharded checkpoint is whole when each process has written its part
            if is_main_process():
                publish(partial, target, replace_files=self._named(runner) == str(target))
            barrier()
            if os.environ.get('LOCAL_RANK') == '0' and partial.is_dir():  # of a node with a disk of its own
                publish(partial, target, replace_files=False)
        except OSError as error:
            discard(partial)
            raise self._error(target, error) from error
        except BaseException:  # Ctrl-C among them
            if is_main_process():
                discard(partial)
            raise

    def _error(self, path: Path, error: OSError) -> CheckpointWriteError:
        whole = self._last_whole
        kept = f'the last whole checkpoint is {whole}' if whole else 'this run has saved none before'
        return CheckpointWriteError(
            f'{path} cannot be written: {error.strerror or error} ({kept})',
            f'make room in {path.parent} and resume from there' if whole else f'make room in {path.parent}',
        )

    @staticmethod
    def _named(runner: Runner) -> str | None:
        """Return what ``last_checkpoint`` names."""
        note = Path(runner.work_dir, LAST)
        return note.read_text().strip() if note.is_file() else None

    def _remove_superfluous(self) -> None:
        """Remove what newer checkpoints have replaced, now that these are on the disk."""
        backend = getattr(self.file_backend, 'backend', self.file_backend)
        while self._removed:
            path = self._removed.pop(0)
            if backend.isfile(path):
                backend.remove(path)
            elif backend.isdir(path):  # a sharded one
                backend.rmtree(path)
        if self._atomic:
            flush(Path(self.out_dir))
