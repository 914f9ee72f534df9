"""The original MMEngine starts a loop's data workers before any hook can stand before their pipelines."""

import pytest
from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader, Dataset

from mmvim.engine.hooks.unreadable import _begin_again


class Doubled(Dataset):
    """Indices times a factor, which workers have as it was when they started."""

    factor = 1

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return index * self.factor


class Once(InfiniteSampler):
    """As the original MMEngine has it: one generator for all iterators."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.indices = self._indices_of_rank()

    def __iter__(self):
        yield from self.indices


def loader_of(workers, sampler=Once, persistent=True):
    dataset = Doubled()
    sampler = sampler(dataset, shuffle=False, seed=0)
    persistent = persistent and workers > 0
    return DataLoader(dataset, 2, sampler=sampler, num_workers=workers, collate_fn=list, persistent_workers=persistent)


def test_the_original_sampler_ends_with_its_first_iterator():
    """The control."""
    loader = loader_of(1)
    next(iter(loader))
    with pytest.raises(StopIteration):
        next(iter(loader))


@pytest.mark.parametrize('sampler', [Once, InfiniteSampler])
@pytest.mark.parametrize('persistent', [True, False])
@pytest.mark.parametrize('workers', [0, 1, 2])
def test_they_begin_again_with_the_data_set_as_it_is(workers, persistent, sampler):
    loader = loader_of(workers, sampler, persistent)
    first = iter(loader)
    assert next(first) == [0, 1]
    loader.dataset.factor = 10
    again = _begin_again(loader, iter)
    assert [next(again) for _ in range(4)] == [[0, 10], [20, 30], [40, 50], [60, 0]]
