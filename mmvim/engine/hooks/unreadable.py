"""Unreadable pictures: name them and stop, or draw others and count."""

from collections.abc import Callable, Generator, Iterator
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmvim.datasets.readable import ACTIONS, ReadablePipeline
from mmvim.registry import HOOKS


@HOOKS.register_module()
class UnreadableFilesHook(Hook):
    """Name pictures and label maps that are missing, empty, truncated or damaged, and stop or draw others.

    It stands before the pipeline of each data set that a run reads, inside wrappers such as ``RepeatDataset``, in
    MMSegmentation, MMDetection and MMPreTrain alike; no config of a pipeline changes. The ends of JPEG, PNG, WebP and
    BMP files are looked at before they are decoded, because some decoders fill up what a truncated file lacks. Files on
    remote storage are read by the pipeline alone.

    Args:
        action: What a picture that cannot be read does to training: 'stop' ends it with an error that names the file;
            'skip' draws another one at random, as data sets do for pictures without objects, logs the name and counts.
            In validation and tests, which must see every picture, it always ends the run. Defaults to 'stop'.
        limit: After how many different unreadable files of one process 'skip' ends the run, too. Defaults to 100.

    Raises:
        ValueError: If an argument is out of range.
        UnreadableFileError: While data are read, if a picture cannot be read, and is to be an error.

    Examples:
        >>> from mmvim.registry import HOOKS
        >>> # in a config: custom_hooks = [dict(type='mmvim.UnreadableFilesHook', action='skip')]
        >>> HOOKS.build(dict(type='UnreadableFilesHook', action='skip')).action
        'skip'
    """

    def __init__(self, action: str = 'stop', limit: int = 100) -> None:
        if action not in ACTIONS:
            raise ValueError(f"action={action!r} must be 'stop' or 'skip'")
        if limit < 1:
            raise ValueError(f'limit={limit} must be 1 or more files')
        self.action, self.limit = action, limit
        self._pipelines: list[ReadablePipeline] = []
        self._told = 0

    @property
    def skips(self) -> int:
        """How many samples have been left out of training."""
        return sum(pipeline.skips for pipeline in self._pipelines)

    def before_train(self, runner: Runner) -> None:
        """Stand before the pipelines of the training's data sets.

        Args:
            runner: The runner of the training.
        """
        guarded = self._guard(runner.train_dataloader.dataset, self.action)
        iterator = getattr(runner.train_loop, 'dataloader_iterator', None)
        # Before onedl-mmengine 0.10.12 the loop's workers have started already, with the data set as it was.
        if guarded and getattr(iterator, '_iterator', None) is not None:
            runner.train_loop.dataloader_iterator = _begin_again(runner.train_dataloader, type(iterator))

    def before_train_epoch(self, runner: Runner) -> None:
        """Do the same for pipelines that another hook has exchanged."""
        self._guard(runner.train_dataloader.dataset, self.action)

    def before_val(self, runner: Runner) -> None:
        """Stand before the pipelines of the data sets for validation."""
        self._guard(runner.val_dataloader.dataset, 'stop')

    def before_test(self, runner: Runner) -> None:
        """Stand before the pipelines of the data sets of a test."""
        self._guard(runner.test_dataloader.dataset, 'stop')

    def after_train_epoch(self, runner: Runner) -> None:
        """Say how many samples were left out."""
        if self.skips > self._told:
            self._told = self.skips
            runner.logger.warning(f'{self._told} pictures that cannot be read were left out so far, others drawn')

    def _guard(self, dataset: Any, action: str) -> bool:
        """Guard what is not yet, and return whether there was any."""
        new = [inner for inner in _innermost(dataset) if not isinstance(inner.pipeline, ReadablePipeline)]
        for inner in new:
            inner.pipeline = ReadablePipeline(inner.pipeline, action, self.limit)
            if action == self.action:
                self._pipelines.append(inner.pipeline)
        return bool(new)


def _begin_again(loader: DataLoader, kind: Callable[[DataLoader], Any]) -> Any:
    """Return an iterator of a loop over a loader whose workers have started: new ones, from the beginning."""
    loader._iterator = None  # which keeps persistent workers
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    if isinstance(sampler, InfiniteSampler) and isinstance(getattr(sampler, 'indices', None), Generator):
        # There all iterators of a sampler share one generator, which ends with the first of them.
        sampler.indices = sampler._indices_of_rank()
    return kind(loader)


def _innermost(dataset: Any) -> Iterator[Any]:
    """Yield the data sets that read files: those that no other one reads from."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if isinstance(inner, (list, tuple)) and inner[0] is not None:
        for one in inner:
            yield from _innermost(one)
    elif callable(getattr(dataset, 'pipeline', None)):
        yield dataset
