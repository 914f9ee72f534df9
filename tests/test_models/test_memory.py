"""Memory over a long run: training leaks nothing, and what is kept for picture sizes is bounded."""

import ctypes
import gc
import importlib
import sys
import weakref

import pytest
import torch
from families import FAMILY_CASES, build_smallest

from mmvim.ops import available_scan_paths
from mmvim.ops.scan_paths import scan_paths

module = importlib.import_module('mmvim.ops.scan_paths')  # the package has a function of that name
QUICK = ('vim',)


class _Heap(ctypes.Structure):
    """What glibc's ``mallinfo2`` returns."""

    _names = 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def in_use() -> tuple[int, int]:
    """Bytes that the C library has given out, tensors among them, and Python's own blocks."""
    gc.collect()
    ask = getattr(ctypes.CDLL(None), 'mallinfo2', None)
    if ask is None:
        pytest.skip('the C library does not tell what is in use')
    ask.restype = _Heap
    heap = ask()
    return heap.uordblks + heap.hblkhd, sys.getallocatedblocks()


@pytest.mark.slow
@pytest.mark.parametrize(
    'family', [pytest.param(name, marks=[pytest.mark.full] * (name not in QUICK)) for name in FAMILY_CASES]
)
def test_500_steps_leak_nothing(family):
    """In 450 of them less than 112 bytes and four objects a step."""
    model, picture = build_smallest(family)
    optimizer, x = torch.optim.AdamW(model.train().parameters(), 1e-4), picture.expand(2, -1, -1, -1)

    def steps(count):
        for i in range(count):
            optimizer.zero_grad()
            sum(y.square().mean() for y in model(x.flip(-1) if i % 2 else x)).backward()
            optimizer.step()

    steps(50)
    size, blocks = in_use()
    steps(450)
    later, more = in_use()
    assert later - size < 50_000, f'{later - size} bytes more'
    assert more - blocks < 1800, f'{more - blocks} objects more'


def test_index_maps_of_a_thousand_picture_sizes_are_bounded():
    """No more are kept than the cache holds, of any orders; those in use by a model's last call are among them."""
    names = [name for name in available_scan_paths() if '<' not in name and 'hilbert' not in name]  # that one is slow
    made = []
    module._cache.clear()  # of maps that models of other tests hold
    for size in range(1000):
        height, width = 3 + size % 40, 3 + size // 40
        for path in scan_paths(names, height, width):
            if path.index is not None:
                made.append(weakref.ref(path.index))
        assert len(module._cache) <= module._MAX_CACHED
    del path
    gc.collect()
    assert len(module._cache) == module._MAX_CACHED
    assert len({id(index) for ref in made if (index := ref()) is not None}) <= module._MAX_CACHED
    assert {key[1:3] for key in module._cache} <= {(3 + size % 40, 3 + size // 40) for size in range(900, 1000)}


@pytest.mark.full
def test_a_model_on_a_thousand_picture_sizes():
    """Inference on pictures of every size keeps index maps and directions of the last ones alone."""
    model, _ = build_smallest('plainmamba')
    sizes = [(16 + 16 * (i % 32), 16 + 16 * (i // 32)) for i in range(1000)]
    with torch.no_grad():
        for height, width in sizes:
            model(torch.zeros(1, 3, height, width))
    held = sum(index.numel() for index, _ in module._cache.values() if index is not None)
    largest = max(height * width // 256 for height, width in sizes[-module._MAX_CACHED :])
    assert len(module._cache) <= module._MAX_CACHED and held <= 4 * largest * module._MAX_CACHED
