"""What data workers draw at random depends on a sample's place in a training, and on nothing else."""

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader, Dataset, RandomSampler

from mmvim.datasets.placed import PlacedIndex, seed_samples

CAN_SKIP = hasattr(InfiniteSampler, 'skip')


class Drawn(Dataset):
    """Nine samples of their index and of a number of each source of random numbers."""

    def __len__(self):
        return 9

    def __getitem__(self, index):
        assert type(index) is int
        return index, random.random(), float(np.random.rand()), torch.rand(()).item()


class Batched(Drawn):
    """One that fetches batches itself."""

    def __getitems__(self, indices):
        return [self[int(index)] for index in indices]


def loader_of(workers, dataset=None, seed=0, **options):
    """Batches of two of an infinite stream."""
    dataset = Drawn() if dataset is None else dataset
    sampler = options.pop('sampler', None) or InfiniteSampler(dataset, seed=seed)
    return DataLoader(dataset, 2, sampler=sampler, num_workers=workers, collate_fn=list, **options)


def drawn(workers, count=6, skipped=0, rank=0, seed=0, epoch=0):
    """The first batches after those that are skipped."""
    loader = loader_of(workers)
    seed_samples(loader, seed, rank).begin(epoch)
    if CAN_SKIP:
        loader.sampler.skip(2 * skipped)  # as MMEngine's loop does
    batches = iter(loader)
    found = [next(batches) for _ in range(count + (0 if CAN_SKIP else skipped))]
    return found if CAN_SKIP else found[skipped:]  # the loop of the original MMEngine draws and drops


def test_neither_the_number_of_workers_nor_an_interruption_matters():
    straight = drawn(1)
    assert drawn(2) == straight
    assert drawn(2, 3, skipped=3) == drawn(3, 3, skipped=3) == straight[3:]
    numbers = [number for batch in straight for sample in batch for number in sample[1:]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize('other', [{'rank': 1}, {'seed': 1}, {'epoch': 1}])
def test_processes_seeds_and_epochs_draw_other_numbers(other):
    """Of the same samples."""
    for one, two in zip(drawn(1, 2), drawn(1, 2, **other), strict=True):
        for sample, moved in zip(one, two, strict=True):
            assert sample[0] == moved[0] and not set(sample[1:]) & set(moved[1:])


def test_an_epoch_over_again():
    """A finite sampler, whose workers begin anew with each epoch: the third is the same without the two before."""
    found = []
    for epochs in (range(3), (2,)):
        loader = loader_of(2, sampler=RandomSampler(range(9), generator=torch.Generator().manual_seed(0)))
        placing = seed_samples(loader, 0)
        for epoch in epochs:
            placing.begin(epoch)
            batches = list(loader)
        found.append([sample[1:] for batch in batches for sample in batch])
    assert len(found[0]) == 9 and found[0] == found[1]


@pytest.mark.skipif(not CAN_SKIP, reason='this MMEngine draws and drops what it skips')
def test_without_it_an_interruption_matters():
    """The control, and MMEngine's way: the same samples, other numbers."""
    found = []
    for skipped in (0, 3):
        torch.manual_seed(0)
        loader = loader_of(2)
        if skipped:
            loader.sampler.skip(2 * skipped)
        batches = iter(loader)
        found.append([next(batches) for _ in range(6 - skipped)])
    whole, rest = found[0][3:], found[1]
    assert [[sample[0] for sample in batch] for batch in whole] == [[sample[0] for sample in batch] for batch in rest]
    assert whole != rest


def test_what_is_left_alone():
    """No workers, a data set with a method for batches, and one that takes no attribute."""
    for loader in (loader_of(0), loader_of(1, Batched()), loader_of(1, range(9))):
        sampler = loader.sampler
        assert seed_samples(loader, 0) is None and loader.batch_sampler.sampler is sampler
    loader = loader_of(1)
    placing = seed_samples(loader, 0)
    assert seed_samples(loader, 0) is placing and placing.size == 9 and len(placing) == 9
    assert isinstance(next(iter(placing)), PlacedIndex)
