"""Random augmentation that depends on a sample's place in a training, and not on the data worker that prepares it.

A worker's generators are seeded once, and how far they have come depends on how many samples that worker has prepared.
A training that is resumed begins with new workers, and would draw other crops and flips than the one that was stopped.
"""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader


class PlacedIndex(int):
    """The index of a sample, and its place: the epoch, and how many samples of it this process has drawn before.

    Examples:
        >>> from mmvim.datasets.placed import PlacedIndex
        >>> index = PlacedIndex(7)
        >>> index.place = (0, 41)
        >>> index, index.place
        (7, (0, 41))
    """

    place: tuple[int, int]


class PlacingSampler:
    """A sampler that gives the indices of another one their places.

    Args:
        sampler: The other one. If it can skip samples, as MMEngine's ``InfiniteSampler``, those that it skips count.

    Examples:
        >>> from mmvim.datasets.placed import PlacingSampler
        >>> sampler = PlacingSampler([5, 3])
        >>> sampler.begin(epoch=2)
        >>> [(index, index.place) for index in sampler]
        [(5, (2, 0)), (3, (2, 1))]
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self._epoch = self._drawn = 0
        if hasattr(sampler, 'skip'):
            sampler.skip = partial(self._skip, sampler.skip)  # the loop calls that of the sampler itself

    def begin(self, epoch: int) -> None:
        """Begin an epoch.

        Args:
            epoch: Its number, from 0.
        """
        self._epoch, self._drawn = epoch, 0

    def _skip(self, skip: Any, num_samples: int) -> None:
        skip(num_samples)
        self._drawn = num_samples  # which counts from the beginning

    def __iter__(self) -> Iterator[Any]:
        for index in self.sampler:
            if isinstance(index, int):
                index = PlacedIndex(index)
                index.place = (self._epoch, self._drawn)
            self._drawn += 1
            yield index

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        if name == 'sampler':  # while it is copied it has none yet
            raise AttributeError(name)
        return getattr(self.sampler, name)


def seed_samples(loader: DataLoader, seed: int, rank: int = 0) -> PlacingSampler | None:
    """Have data workers seed Python's, NumPy's and PyTorch's generators anew for each sample, by its place.

    The loader changes in place, which must be before its workers start. Its data set stays what it is.

    Args:
        loader: The data loader.
        seed: Of the training.
        rank: Of this process. Defaults to 0.

    Returns:
        What is to be told when an epoch begins; None if nothing changes: there are no workers, the data set fetches
        batches by a method of its own, or the batches are not made of a sampler's indices.

    Examples:
        >>> import random
        >>> from torch.utils.data import DataLoader
        >>> from mmvim.datasets.placed import seed_samples
        >>> seed_samples(DataLoader([1, 2], num_workers=0), seed=0) is None
        True
    """
    batches, dataset = loader.batch_sampler, loader.dataset
    sampler = getattr(batches, 'sampler', None)
    if isinstance(sampler, PlacingSampler):
        return sampler
    takes = hasattr(dataset, '__dict__') and not hasattr(dataset, '__getitems__')  # a list takes no attribute
    if loader.num_workers == 0 or sampler is None or not takes:
        return None
    batches.sampler = PlacingSampler(sampler)
    # What a worker asks for a batch, if it is there.
    dataset.__getitems__ = partial(_draw, dataset, seed, rank)  # type: ignore[attr-defined]
    return batches.sampler


def _draw(dataset: Any, seed: int, rank: int, indices: Sequence[Any]) -> list:
    samples = []
    for index in indices:
        if isinstance(index, PlacedIndex):
            words = np.random.SeedSequence((seed, rank, *index.place)).generate_state(3)
            python, numpy, pytorch = (int(word) for word in words)
            random.seed(python)
            np.random.seed(numpy)
            torch.manual_seed(pytorch)
            index = int(index)
        samples.append(dataset[index])
    return samples
