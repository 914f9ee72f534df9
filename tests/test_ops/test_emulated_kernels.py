"""The Triton kernels as compiled for NVIDIA's GPUs, run by the emulator of ``tests/ptx`` on the CPU.

A few cases for each architecture by default, all of them with MMVIM_TEST_EVERY_KERNEL=1. What the emulator finds, such
as accesses out of bounds and races, raises ``ptx.check.Faults``.
"""

import re
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from emulated import ARCHITECTURES, EVERY, NEEDS_EMULATOR
from helpers import randn, worst_errors
from triton_cases import CASES, LONG, PARTIAL, Case, errors_of

from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.rms_norm import add_rms_norm, add_rms_norm_reference
from mmvim.ops.rms_norm.triton import backward_launch, forward_launch
from mmvim.ops.selective_scan.triton import sizes
from mmvim.ops.selective_scan.triton.blocks import blocks_for, fit_blocks
from mmvim.ops.triton_host.launch import Prepared

pytestmark = [NEEDS_EMULATOR, pytest.mark.slow]

TOLERANCES = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
VIM = ('forward', 'reverse')
BY_NAME = {case.name: case for case in (*CASES, *PARTIAL, *LONG)}
FEW = [
    (75, 'Vim', torch.bfloat16),
    (80, 'windows and rows', torch.float16),
    (90, 'two groups across a chunk', torch.float32),
    (90, '32 channels, 8 steps', torch.float16),
    (80, '64 channels of a group along a map', torch.bfloat16),
    (100, 'cross scan, stacked, gated', torch.float16),
    (100, 'in the order of the steps', torch.bfloat16),
    (120, '17 states', torch.float32),
]
# Numbers of states: each of those between which the table of block sizes changes, and all up to 17.
STATES = (*range(1, 18), 20, 24, 31, 32, 33, 40, 48, 63, 64)
# Channels that are no multiple of 16, of 8 or of 2, in one block and in several; the last is wider than a block of 128.
UNEVEN = (
    Case('24 channels', 2, 24, 5, 2),
    Case('72 channels', 1, 72, 5, 2, paths=VIM, shared=('u',)),
    Case('33 channels of two groups', 1, 66, 3, 3, groups=2, reverse=True),
    Case('392 channels', 1, 392, 3, 2, optional=False),
)
# Arguments of 1 become constants of the compiled kernel.
ONES = (
    Case('one of everything', 1, 1, 1, 1),
    Case('one channel', 2, 1, 9, 3),
    Case('one step', 1, 5, 1, 3, paths=VIM),
    Case('one batch element, one group', 1, 40, 3, 1, optional=False),
)


def assert_close(errors, dtype):
    assert all(error < TOLERANCES[dtype] for error in errors.values()), errors


def all_cases():
    return list(product(ARCHITECTURES, BY_NAME, TOLERANCES)) if EVERY else FEW


@pytest.mark.parametrize(('arch', 'name', 'dtype'), all_cases(), ids=str)
def test_architectures(arch, name, dtype, emulate, request):
    request.getfixturevalue('many_segments' if BY_NAME[name] in LONG else 'widest')
    with emulate(arch) as emulation:
        assert_close(errors_of(BY_NAME[name], dtype), dtype)
    assert {'scan_forward', 'scan_backward'} <= set(emulation.launches)
    assert (BY_NAME[name] in LONG) == ('segment_ends' in emulation.launches)


def test_segments(emulate, many_segments):
    with emulate(90) as emulation:
        assert_close(errors_of(BY_NAME['segments'], torch.float32), torch.float32)
    assert emulation.launches.count('segment_ends') == emulation.launches.count('chain_segments') == 2


@pytest.mark.parametrize('dtype', TOLERANCES if EVERY else (torch.float16,), ids=str)
@pytest.mark.parametrize('paths', [VIM, None] if EVERY else [VIM], ids=str)
@pytest.mark.parametrize('segments', [False, True], ids=['whole', 'in segments'])
@pytest.mark.parametrize('d_state', [1, 16])
def test_blocks_of_128_channels(d_state, segments, paths, dtype, emulate, request, monkeypatch):
    """Backward, the widest blocks of the table, full of channels and steps: two of them, and two chunks or segments."""
    request.getfixturevalue('many_segments' if segments else 'widest')
    cut, taken = sizes.Sizes.cut, {}

    def observe(self, kernel, *more):
        taken[kernel] = cut(self, kernel, *more)
        return taken[kernel]

    monkeypatch.setattr(sizes.Sizes, 'cut', observe)
    case = Case('128 channels', 1, 256, 20, d_state, paths=paths)
    with emulate(90) as emulation:
        assert_close(errors_of(case, dtype), dtype)
    assert ('segment_ends' in emulation.launches) == segments
    wide = paths and dtype != torch.float32
    assert (taken['backward'][0].block_d, taken['backward'][0].steps) == ((128, 4) if wide else (64, 4))


@pytest.mark.parametrize('arch', ARCHITECTURES if EVERY else (75, 100, 120))
@pytest.mark.parametrize('dtype', TOLERANCES if EVERY else (torch.bfloat16,), ids=str)
def test_norm(arch, dtype, emulate):
    """A residual of another dtype, channels that are a power of two or not, rows for part of a program."""
    for shape in ((5, 3, 12), (70, 16)) if EVERY else ((5, 3, 12),):
        with emulate(arch) as emulation:
            found = worst_errors(
                lambda *x: add_rms_norm(*x, 1e-5, 'triton'),
                lambda *x: add_rms_norm_reference(*x, 1e-5),
                (randn(*shape), randn(*shape, seed=1), randn(shape[-1], seed=2)),
                (dtype, torch.float32, torch.float32),
            )
        assert max(found) < TOLERANCES[dtype]
        assert emulation.launches == ['norm_forward', 'norm_backward']


ROWS = {'one channel a thread': 21, 'some of them': 100, 'several': 700}


@pytest.mark.parametrize('channels', ROWS.values(), ids=ROWS)
def test_all_threads_of_a_row_have_one_scale(channels, emulate):
    """Whichever of them stores it: copies that differ are a race, which the emulator looks for."""
    x, weight = randn(70, channels).float(), randn(channels, seed=1).float()
    with emulate(90):
        forward, (y, _, scale) = forward_launch(x, None, weight, 1e-5, torch.float32)
        forward.run()
        assert torch.equal(y, x * scale[:, None] * weight)
        backward_launch(y, None, x, weight, scale, torch.float32, None)[0].run()


def test_scales_that_differ_are_seen(emulate):
    """The control: products rounded together with sums, as the compiler does unless it is told."""
    from ptx.check import Faults

    x, weight = randn(70, 21).float(), randn(21, seed=1).float()
    launch, _ = forward_launch(x, None, weight, 1e-5, torch.float32)
    launch.fuse = True
    with emulate(90), pytest.raises(Faults, match='norm_forward: write after write'):
        launch.run()


def convolve(x, weight, bias=None, left=(3, 0), backend='triton'):
    """The convolutions, or their definition."""
    if backend == 'triton':
        return (conv1d_silu(x, weight, bias, left, backend='triton'),)
    outputs = [
        F.conv1d(
            F.pad(x.mT, (n, weight.shape[2] - 1 - n)),
            weight[k, :, None],
            None if bias is None else bias[k],
            groups=x.shape[2],
        ).mT
        for k, n in enumerate(left)
    ]
    return (F.silu(torch.stack(outputs, dim=1)),)


@pytest.mark.parametrize('arch', ARCHITECTURES if EVERY else (80, 100, 120))
@pytest.mark.parametrize('dtype', TOLERANCES if EVERY else (torch.float16,), ids=str)
@pytest.mark.parametrize('dim', [35, 64] if EVERY else [35])
def test_convolution(arch, dtype, dim, emulate):
    """Two filters over part of a wider tensor, with more tokens than a program has."""
    inputs = [randn(2, 37, 2 * dim)[..., :dim], randn(2, dim, 4), randn(2, dim)]
    with emulate(arch) as emulation:
        found = worst_errors(
            convolve, lambda *x: convolve(*x, backend=''), inputs, (dtype, torch.float32, torch.float32)
        )
    assert max(found) < TOLERANCES[dtype]
    assert emulation.launches == ['conv_forward', 'conv_backward', 'conv_transposed']


def move_off(tensors, distance):
    """Copies in the same layouts so many bytes, or one element, behind an aligned address; and a way back."""
    moved, backs = {}, []
    for name, x in tensors.items():
        offset = max(distance // x.element_size(), 1)
        size = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) + 1
        old = x.as_strided((size,), (1,))
        buffer = torch.zeros(size + offset, dtype=x.dtype)
        assert buffer.data_ptr() % 64 == 0
        new = buffer[offset:]
        new.copy_(old)
        before = new.clone()
        moved[name] = new.as_strided(x.shape, x.stride(), offset)
        assert moved[name].data_ptr() % 16
        backs.append((old, new, before))

    def copy_back():
        for old, new, before in backs:
            if not torch.equal(new.view(torch.uint8), before.view(torch.uint8)):
                old.copy_(new)

    return moved, copy_back


@pytest.mark.parametrize('distance', [1, 8] if EVERY else [1])
@pytest.mark.parametrize('arch', ARCHITECTURES if EVERY else (90,))
@pytest.mark.parametrize('name', BY_NAME if EVERY else ['one with a gate'])
def test_unaligned_pointers(arch, distance, name, emulate, monkeypatch, request):
    """No tensor at a multiple of 16 bytes, as slices of wider ones may be: the compiler must not have relied on it."""
    start, launched = Prepared.start, []

    def start_unaligned(launch, values):
        tensors = {i: x for i, x in enumerate(values) if isinstance(x, torch.Tensor) and x.numel()}
        floats = {i: x for i, x in tensors.items() if x.is_floating_point()}
        moved, copy_back = move_off(floats, distance)
        start(launch, [moved.get(i, x) for i, x in enumerate(values)])
        copy_back()
        launched.append(len(moved))

    monkeypatch.setattr(Prepared, 'start', start_unaligned)
    request.getfixturevalue('many_segments' if BY_NAME[name] in LONG else 'widest')
    dtype = torch.float16 if distance == 8 else torch.float32
    with emulate(arch) as emulation:
        assert_close(errors_of(BY_NAME[name], dtype), dtype)
    assert len(launched) == len(emulation.launches) > 3 and min(launched) > 1


@pytest.mark.parametrize('arch', ARCHITECTURES if EVERY else (90,))
@pytest.mark.parametrize('case', ONES if EVERY else ONES[:1], ids=lambda case: case.name)
def test_arguments_of_one(case, arch, emulate):
    with emulate(arch):
        assert_close(errors_of(case, torch.float32), torch.float32)


@pytest.mark.parametrize('arch', ARCHITECTURES if EVERY else (90,))
@pytest.mark.parametrize('dtype', TOLERANCES if EVERY else (torch.float16,), ids=str)
@pytest.mark.parametrize('case', UNEVEN if EVERY else UNEVEN[1:2], ids=lambda case: case.name)
def test_channels_that_are_no_multiple_of_16(case, dtype, arch, emulate):
    with emulate(arch):
        assert_close(errors_of(case, dtype), dtype)


@pytest.mark.parametrize('arch', ARCHITECTURES if EVERY else (90,))
@pytest.mark.parametrize('d_state', STATES if EVERY else (8,))
def test_states(d_state, arch, emulate, monkeypatch, widest):
    """Each row of the table of block sizes, which has others for long rows than these; with and without a gate."""
    monkeypatch.setattr(
        sizes.Sizes,
        'blocks',
        lambda self, kernel: fit_blocks(
            blocks_for(kernel, d_state, 1024, self.args.u.dtype, arch),
            kernel,
            self.dim,
            self.group_dim,
            self.args.partial,
        ),
    )
    case = Case('states', 1, 80, 5, d_state, paths=('reverse',) if d_state % 2 else None)
    for dtype in (torch.float32, torch.float16) if EVERY else (torch.float16,):
        with emulate(arch):
            assert_close(errors_of(case, dtype), dtype)


def without_barriers(text):
    """The text of a kernel without its barriers."""
    return re.sub(r'bar\.sync\s+0;', '', text)


def test_missing_barriers_between_warps_are_seen(emulate):
    from ptx.check import Faults

    x = randn(2, 37, 35).float()
    with emulate(90, edit=without_barriers), pytest.raises(Faults, match='norm_forward: read after write'):
        add_rms_norm(x, x, randn(35).float(), 1e-5, 'triton')


@pytest.mark.parametrize('what', ['ld', 'st'])
def test_overruns_are_seen(what, emulate, widest):
    """Loads or stores whose masks are taken away reach beyond a tensor."""
    from ptx.check import Faults

    def unmask(text):
        return re.sub(rf'@!?%p\d+ ({what}\.global)', r'\1', text)

    with emulate(90, edit=unmask), pytest.raises(Faults, match='out of bounds'):
        errors_of(BY_NAME['channels of two blocks'], torch.float32)


def test_a_step_too_many_is_seen(emulate, monkeypatch):
    from ptx.check import Faults

    start = Prepared.start

    def start_longer(launch, values):
        steps = launch.kernel.arg_names.index('num_steps')
        start(launch, [*values[:steps], values[steps] + 1, *values[steps + 1 :]])

    monkeypatch.setattr(Prepared, 'start', start_longer)
    with emulate(90), pytest.raises(Faults, match=r'scan_forward: out of bounds.*tiles\.py'):
        errors_of(BY_NAME['one state, plain, reverse'], torch.float32)
