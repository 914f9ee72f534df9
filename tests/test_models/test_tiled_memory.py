"""What tiles take of memory: the bound, whatever the size of the picture. Bytes are counted, not looked up."""

import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmvim.analysis.tiled import predict_tiled
from mmvim.models import TiledSegmentor

CLASSES, TILE = 64, 16
COLUMN = CLASSES * TILE * 4  # bytes of the sums of one column of a picture
BOUND = 10**6
ONE_TILE = 5 * CLASSES * TILE * TILE * 4  # what is made of one tile before it is added to the sums
LINE = 48  # bytes that a row or a column may take beside the sums: where tiles lie, and their weights


class Live(TorchDispatchMode):
    """Count the bytes of all tensors that are made and not yet gone."""

    def __init__(self):
        super().__init__()
        self.storages, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.storages = {key: found for key, found in self.storages.items() if not found[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return out


class Segmentor(nn.Conv2d):
    out_channels = CLASSES

    def test_step(self, data): ...

    def data_preprocessor(self, data, training):
        return {'inputs': torch.stack(data['inputs']).float()}

    def encode_decode(self, inputs, metas):
        return self(inputs)


def peak(run) -> int:
    """Bytes of tensors and of NumPy's arrays at most, beyond what there was."""
    tracemalloc.start()
    try:
        with Live() as live:
            run()
        return live.peak + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_count():
    """Of tensors that live at once, and of arrays."""

    def run():
        torch.ones(250_000)  # 1 MB, gone at once
        kept = torch.ones(250_000)
        again = kept.view(500, 500)  # the same memory
        return kept, again, np.ones(250_000)

    assert 3e6 <= peak(run) < 3.1e6


@pytest.mark.slow
@pytest.mark.parametrize(('height', 'width'), [(48, 2000), (400, 400)])
@pytest.mark.parametrize('way', ['predict_tiled', 'TiledSegmentor'])
def test_memory_does_not_grow_with_the_picture(way, height, width, tmp_path):
    """From file to file not at all; in a test, by the picture that comes and the map that goes."""
    model = Segmentor(3, CLASSES, 1)

    def run(rows, columns, memory_mb):
        picture = np.zeros((rows, columns, 3), np.uint8)
        np.save(tmp_path / 'a.npy', picture)
        if way == 'predict_tiled':
            return peak(lambda: predict_tiled(model, tmp_path / 'a.npy', TILE, 4, tmp_path / 'b.npy', memory_mb))
        tiled, given = TiledSegmentor(model, TILE, 4, memory_mb), torch.from_numpy(picture).permute(2, 0, 1)
        return peak(lambda: tiled.labels(given)) - (3 + 2) * rows * columns

    small, large = run(48, 300, 1), run(height, width, 1)
    assert BOUND / 2 < small < BOUND + ONE_TILE + LINE * (48 + 300)
    assert large < BOUND + ONE_TILE + LINE * (height + width)
    # Panels end where tiles begin, so that they differ in width by less than a tile.
    assert large - small < TILE * COLUMN + LINE * (height + width), 'of 400 x 400, a byte a pixel would show'
    if width > 1000:  # the control: without a bound, the sums of each column stay
        assert run(height, width, 100) > COLUMN * width
