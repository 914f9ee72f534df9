"""The Triton kernels for AMD's GPUs, compiled here down to the machine code: nothing in them is NVIDIA's alone.

Nothing runs. gfx942 (MI300) has warps of 64 lanes, gfx1100 (Radeon RX 7900) of 32; the sum over channels stays inside a
warp in both, for ``warps`` is 1. More states than one take two minutes more: with MMVIM_TEST_EVERY_KERNEL=1.
"""

import importlib.util
import os

import pytest
import torch
from triton_resources import build_launches

from mmvim.ops.selective_scan.triton.blocks import Blocks
from mmvim.ops.triton_host.device import installed, interpreting

pytestmark = pytest.mark.skipif(
    not installed() or interpreting() or importlib.util.find_spec('triton.backends.amd') is None,
    reason="Triton is not installed, interprets, or has no compiler for AMD's GPUs",
)

FEW = [
    ('cross', 1, 'bfloat16'),
    ('conv of Vim', 0, 'float16'),
    ('norm', 384, 'bfloat16'),
    ('wkv published', 384, 'float16'),
]
MORE = [('gated', 8, 'float16'), ('vim', 16, 'bfloat16'), ('gated', 64, 'float32')]


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Tensors without memory need no NaN."""


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['gfx942', 'gfx1100'])
@pytest.mark.parametrize('setting', FEW + MORE if os.environ.get('MMVIM_TEST_EVERY_KERNEL') == '1' else FEW, ids=str)
def test_compiles_without_spills(setting, arch):
    from mmvim.ops.triton_host.resources import compile_launch, read_resources

    for name, launch in build_launches(*setting, 1024).items():
        compiled = compile_launch(launch, arch)
        found = read_resources(compiled)
        assert 0 < found.registers <= 256 and found.spilled == 0 and found.shared <= 16 * 1024, (name, found)
        assert compiled.asm['hsaco']


def test_other_compilers_are_not_told_what_nvidias_is(monkeypatch):
    blocks, device = Blocks(64, 4, registers=128), torch.device('cuda', 0)
    assert blocks.options(device) == ({} if torch.version.hip else {'maxnreg': 128})
    assert blocks.options(torch.device('xpu', 0)) == {}
    monkeypatch.setattr(torch.version, 'hip', '7.0')
    assert blocks.options(device) == {}
