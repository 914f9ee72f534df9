"""Resume training as if it had never stopped, random numbers included."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from mmvim.datasets.placed import PlacingSampler, seed_samples
from mmvim.registry import HOOKS

_KEY, _RANKS = 'random_state', 'ranks'


def capture_random_state() -> dict:
    """Return the states of Python's, NumPy's and PyTorch's generators, as tensors, tuples and numbers only.

    Returns:
        ``python`` (tuple), ``numpy`` (tuple with a uint8 tensor), ``torch`` (uint8 tensor) and, with CUDA, ``cuda``
        (list of uint8 tensors, one a device).

    Examples:
        >>> from mmvim.engine.hooks.random_state import capture_random_state
        >>> [name for name in capture_random_state() if name != 'cuda']
        ['python', 'numpy', 'torch']
    """
    name, keys, *rest = np.random.get_state()
    state = {
        'python': random.getstate(),
        'numpy': (name, torch.from_numpy(np.asarray(keys).view(np.uint8).copy()), *rest),
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict) -> None:
    """Put the generators into a state that :func:`capture_random_state` returned.

    Args:
        state: The state. That of CUDA is restored only if it is of as many devices as there are here.

    Examples:
        >>> import torch
        >>> from mmvim.engine.hooks.random_state import capture_random_state, restore_random_state
        >>> state = capture_random_state()
        >>> drawn = torch.rand(2)
        >>> restore_random_state(state)
        >>> torch.equal(torch.rand(2), drawn)
        True
    """
    random.setstate(state['python'])
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().view(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    cuda = state.get('cuda', [])
    if cuda and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in cuda])


class _RestoringIterator:
    """An iterator that restores the random state after the batches skipped on resuming, before the first trained on.

    Args:
        iterator: The loop's own iterator over batches.
        skips: How many batches the loop will draw and drop.
        restore: Restores the state.
    """

    def __init__(self, iterator: Iterator, skips: int, restore: Callable[[], None]) -> None:
        self._iterator = iterator
        self._skips = skips
        self._restore = restore

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> dict:
        if self._skips > 0:
            self._skips -= 1
        elif self._restore is not None:
            # Making the data loader's iterator draws a number, which the interrupted run had drawn long before.
            if hasattr(self._iterator, '_ensure_iterator'):
                self._iterator._ensure_iterator()
            self._restore()
            self._restore = None
        return next(self._iterator)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Keep the states of the random number generators in checkpoints, and restore them on resuming.

    MMEngine restores weights, optimizer, schedulers and the order of the data, but dropout, stochastic depth and random
    augmentation start over from the seed. With this hook the first step after resuming is the one that the interrupted
    run would have made, to the bit if the machine's kernels are deterministic. It also keeps validation from changing
    the numbers that training draws.

    With ``num_workers > 0`` augmentation draws its numbers in worker processes, which end with the run. There it is
    seeded anew for each sample, by the training's seed, the process, the epoch and the sample's place in it, so that
    the number of workers does not matter either.

    Limits: the states of several processes are kept where :class:`mmvim.engine.hooks.CheckpointHook` saves, and
    restored if as many processes resume; with another checkpoint hook they resume as without this one. Before
    onedl-mmengine 0.10.12 the workers of a training by iteration have begun before any hook runs, and augmentation in
    them starts over.

    Examples:
        >>> from mmvim.engine.hooks import RandomStateHook
        >>> checkpoint = {}
        >>> RandomStateHook().before_save_checkpoint(runner=None, checkpoint=checkpoint)
        >>> [name for name in checkpoint['random_state'] if name != 'cuda']
        ['python', 'numpy', 'torch']
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._resumed: dict | None = None
        self._collected: list[dict] | None = None
        self._before_val: dict | None = None
        self._placing: PlacingSampler | None = None

    def collect(self) -> None:
        """Collect the states of all processes, each of which must call this, for the checkpoint that is saved next."""
        if get_world_size() > 1:
            self._collected = all_gather_object(capture_random_state())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the states to the checkpoint."""
        if get_world_size() == 1:
            checkpoint[_KEY] = capture_random_state()
        elif self._collected is not None:
            checkpoint[_KEY] = {_RANKS: self._collected}
            self._collected = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember the states of the checkpoint, that of this process if there are several."""
        state = checkpoint.get(_KEY)
        states = [] if state is None else state.get(_RANKS, [state])
        self._resumed = states[get_rank()] if len(states) == get_world_size() else None

    def before_train(self, runner: Runner) -> None:
        """Arrange for the states to be restored before the first batch is drawn."""
        if runner.iter == 0:  # weights were loaded, training was not resumed
            self._resumed = None
        loop = runner.train_loop
        if self._in_workers(runner):
            begun = getattr(getattr(loop, 'dataloader_iterator', None), '_iterator', None) is not None
            self._placing = None if begun else seed_samples(runner.train_dataloader, runner.seed, get_rank())
            return
        if self._resumed is None or not isinstance(loop, IterBasedTrainLoop):
            return
        state, self._resumed = self._resumed, None
        iterator = loop.dataloader_iterator
        # Before onedl-mmengine 0.10.12 the loop draws and drops as many batches as have been trained on.
        skips = 0 if hasattr(iterator, 'skip_iter') else runner.iter
        loop.dataloader_iterator = _RestoringIterator(iterator, skips, lambda: restore_random_state(state))

    def before_train_epoch(self, runner: Runner) -> None:
        """Restore the states of a training by epoch, unless its workers outlive epochs."""
        if self._placing is not None:
            self._placing.begin(runner.epoch)
        # The data loader's iterator, which draws a number, is made only after this, in the interrupted run as in the
        # resumed one. Where workers persist, or train by iteration, the interrupted run had made it long before.
        persistent = getattr(runner.train_dataloader, 'persistent_workers', False)
        if not self._in_workers(runner) or not (persistent or isinstance(runner.train_loop, IterBasedTrainLoop)):
            self._restore()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Restore the states where workers draw the data: only the model draws numbers in this process then."""
        self._restore()

    def before_val(self, runner: Runner) -> None:
        """Remember the states before validation, which draws numbers too."""
        self._before_val = capture_random_state()

    def after_val(self, runner: Runner) -> None:
        """Restore the states from before validation."""
        if self._before_val is not None:
            restore_random_state(self._before_val)
            self._before_val = None

    @staticmethod
    def _in_workers(runner: Runner) -> bool:
        return getattr(runner.train_dataloader, 'num_workers', 0) > 0

    def _restore(self) -> None:
        if self._resumed is not None:
            restore_random_state(self._resumed)
            self._resumed = None
