"""Throughput, memory and the size of the scans' states, in the log of a training."""

import sys
import time
from contextlib import ExitStack
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner
from torch import Tensor

from mmvim.ops.selective_scan.states import watch_states
from mmvim.registry import HOOKS


@HOOKS.register_module()
class RunMonitorHook(Hook):
    """Log how fast a training is, how much memory it takes and how large the states of the selective scans become.

    - ``pictures_per_s``: pictures of all processes, since the last log; validations are left out.
    - ``memory``: the most memory that this process has held, in MB, where there is no accelerator. With one MMEngine
      logs its memory under the same name.
    - ``state_max``: the largest absolute value that a state of any selective scan takes in this iteration, on the first
      pictures of the batch of the first process. Half-precision outputs overflow at 65504, and a value that grows
      from log to log tells so before the loss does. Models without a selective scan do not have it.

    ``mmvim train`` has this hook unless the config has its own.

    Args:
        interval: Iterations from one value to the next. Defaults to None, the logger's.
        states: Whether to look at states. It costs one scan a state (8 or 16) of ``pictures`` pictures in each layer,
            once an interval. Defaults to True.
        pictures: How many pictures of the batch are looked at. Defaults to 1.

    Raises:
        ValueError: If ``interval`` or ``pictures`` is less than 1.

    Examples:
        >>> from mmvim.registry import HOOKS
        >>> hook = HOOKS.build(dict(type='RunMonitorHook', interval=200))  # an item of custom_hooks in a config
        >>> hook.interval, hook.states
        (200, True)
    """

    def __init__(self, interval: int | None = None, states: bool = True, pictures: int = 1) -> None:
        for name, value in (('interval', interval), ('pictures', pictures)):
            if value is not None and value < 1:
                raise ValueError(f'{name} must be 1 or more, got {value}')
        self.interval, self.states, self.pictures = interval, states, pictures
        self._every = interval or 10
        self._begin, self._seen = 0.0, 0
        self._watch = ExitStack()
        self._found: list[Tensor] | None = None

    def before_train(self, runner: Runner) -> None:
        """Find the logger's interval, and start the clock."""
        loggers = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self._every = self.interval or (loggers[0] if loggers else 10)
        self._begin, self._seen = time.monotonic(), 0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begin to look at the scans, once an interval."""
        if self.states and self._is_due(runner, batch_idx):
            self._found = self._watch.enter_context(watch_states(self.pictures))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Count pictures, and hand the values to the log once an interval."""
        self._watch.close()
        self._seen += _number_of_pictures(data_batch)
        if not self._is_due(runner, batch_idx):
            return
        elapsed = time.monotonic() - self._begin
        if self._seen and elapsed > 0:
            self._log(runner, 'pictures_per_s', self._seen * get_world_size() / elapsed)
        peak = None if torch.cuda.is_available() else peak_memory()
        if peak is not None:
            self._log(runner, 'memory', peak)
        if self._found:
            self._log(runner, 'state_max', float(torch.stack([x.float() for x in self._found]).amax()))
        self._found = None
        self._begin, self._seen = time.monotonic(), 0

    def before_val(self, runner: Runner) -> None:
        """Stop the clock while a validation interrupts the training."""
        self._paused = time.monotonic()

    def after_val(self, runner: Runner) -> None:
        """Let the clock go on."""
        self._begin += time.monotonic() - self._paused

    def after_train(self, runner: Runner) -> None:
        """Look at nothing any more."""
        self._watch.close()

    def _is_due(self, runner: Runner, batch_idx: int) -> bool:
        return self.every_n_inner_iters(batch_idx, self._every) or self.every_n_train_iters(runner, self._every)

    @staticmethod
    def _log(runner: Runner, name: str, value: float) -> None:
        runner.message_hub.update_scalar(f'train/{name}', value)


def peak_memory() -> float | None:
    """Return the most memory that this process has held, in MB; None where the system does not tell.

    Examples:
        >>> from mmvim.engine.hooks.run_monitor import peak_memory
        >>> (peak_memory() or 100.0) > 10
        True
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == 'darwin' else 2**10)  # bytes there, kB elsewhere


def _number_of_pictures(batch: Any) -> int:
    """Return the length of a batch, as MMEngine's data loaders yield it; 0 if it has none."""
    inputs = batch.get('inputs', ()) if isinstance(batch, dict) else batch
    if isinstance(inputs, dict):  # of several views, the same number each
        inputs = next(iter(inputs.values()), ())
    return len(inputs) if hasattr(inputs, '__len__') else 0
