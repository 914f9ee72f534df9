"""The plain-PyTorch scan: every cut of it against the definition, its memory, and its operations on other devices."""

import pytest
import torch
from helpers import compare, inputs_of, path_inputs_of, randn, scan_of, scan_paths_of
from torch.utils._python_dispatch import TorchDispatchMode

from mmvim.ops import cross_scan, selective_scan, selective_scan_paths, zigzag_scan
from mmvim.ops.selective_scan import plain
from mmvim.ops.selective_scan.arguments import ScanArguments, several_paths, single_path

# State values of a chunk, and of a step below which segments take their steps together.
CUTS = {
    'few steps': (1, 0),
    'chunks': (700, 0),
    'segments': (1500, 1 << 20),
    'all at once': (1 << 30, 0),
    'all in segments': (1 << 30, 1 << 20),
    "a GPU's": (1 << 25, 1 << 18),
}


def set_cut(monkeypatch, chunk, join):
    monkeypatch.setitem(plain.TUNING, 'cpu', (chunk, join))


@pytest.fixture(params=CUTS.values(), ids=CUTS.keys())
def cut(request, monkeypatch):
    set_cut(monkeypatch, *request.param)


@pytest.mark.covering(2)
@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@pytest.mark.parametrize('d_state', [1, 4])
def test_one_path(cut, reverse, d_state):
    compare(scan_of(reverse), inputs_of(2, 6, 53, d_state, 2, True), 'torch', torch.float64, 1e-12)


@pytest.mark.covering(2)
@pytest.mark.parametrize('d_state', [1, 3])
@pytest.mark.parametrize('shared', [False, True], ids=['own', 'shared'])
@pytest.mark.parametrize(
    ('follow', 'combine'),
    [(('u', 'delta', 'B', 'C'), 'sum'), (('u', 'delta', 'B', 'C'), 'stack'), (('u',), 'sum'), (('delta', 'C'), 'sum')],
    ids=['all-sum', 'all-stack', 'u', 'delta-C'],
)
def test_four_paths(cut, d_state, shared, follow, combine):
    H, W, b, d = 5, 7, 2, 6
    k = 4
    for paths in (cross_scan(H, W), zigzag_scan(H, W)):
        inputs = list(path_inputs_of(b, () if shared else (k,), d, H * W, d_state))
        inputs[4] = randn(b, k, d_state, H * W, seed=2)  # C is each path's own, whatever is shared
        compare(scan_paths_of(paths=paths, follow=follow, combine=combine), inputs, 'torch', torch.float64, 1e-12)


@pytest.mark.covering(2)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('d_state', [1, 3])
def test_equal_bits_each_time(cut, d_state, dtype):
    """Sums have one order, whatever the cut; on several threads, too."""
    inputs = [x.to(dtype).requires_grad_() for x in path_inputs_of(2, (4,), 6, 35, d_state)]
    scan, found = scan_paths_of(paths=cross_scan(5, 7)), []
    for _ in range(3):
        out = scan(*inputs, backend='torch')
        found.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    assert all(torch.isfinite(x).all() for x in found[0])
    assert all(torch.equal(a, b) for again in found[1:] for a, b in zip(found[0], again, strict=True))


@pytest.mark.covering(2)
@pytest.mark.parametrize('length', [0, 1, 2, 7, 49, 63, 196, 197, 3136])
def test_a_cut_covers_every_step_once(cut, length):
    args = single_path(*arguments(3, 10, length, 4, 2), None, None, None, None, True, False, None)
    steps = [chunk.start + i for chunk in plain.cut(args) for i in range(chunk.size)]
    assert steps == list(range(length))


def arguments(batch, dim, length, d_state, groups=1, device='cpu'):
    u, delta, A, B, C = (
        randn(batch, dim, length),
        randn(batch, dim, length, seed=1),
        -randn(dim, d_state).exp(),
        randn(batch, groups, d_state, length),
        randn(batch, groups, d_state, length, seed=2),
    )
    return [x.float().to(device) for x in (u, delta, A, B, C)]


def several(batch, dim, height, width, d_state, device):
    k, length = 4, height * width
    u, delta, A, B, C = arguments(batch, dim, length, d_state, device=device)
    own = (x.unsqueeze(1).expand(-1, k, *x.shape[1:]) for x in (delta, B[:, 0], C[:, 0]))
    delta, B, C = (x.contiguous() for x in own)
    paths = cross_scan(height, width, device)
    return several_paths(
        u, delta, A.expand(k, -1, -1), B, C, None, None, None, True, paths, ('u', 'delta', 'B', 'C'), 'sum', None
    )


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor):
                self.values = max(self.values, x.untyped_storage().nbytes() // x.element_size())
        return result


@pytest.mark.parametrize(
    ('batch', 'dim', 'length', 'd_state'), [(1, 128, 4096, 16), (2, 384, 1024, 16), (8, 160, 196, 8), (2, 192, 3136, 1)]
)
def test_no_tensor_is_larger_than_the_inputs_and_results(batch, dim, length, d_state):
    """And with 8 states and more none is near (B, D, L, N), nor is what is saved for the backward pass."""
    inputs = arguments(batch, dim, length, d_state)
    args = single_path(*inputs, None, None, None, None, True, False, None)
    with Largest() as seen:
        out, _, saved = plain.forward(args, True)
        plain.backward(args, torch.ones_like(out), None, saved)
    assert seen.values <= max(x.numel() for x in (*inputs, out))
    if d_state >= 8:
        assert max(seen.values, saved.numel()) <= batch * dim * length * d_state / 8


@pytest.mark.parametrize('shape', [(2, 384, 197, 16), (8, 384, 49, 16), (8, 160, 49, 8)], ids=str)
def test_what_short_sequences_take(shape):
    """A chunk of few tokens and many states is larger than u; it stays far from (B, D, L, N)."""
    inputs = arguments(*shape)
    args = single_path(*inputs, None, None, None, None, True, False, None)
    with Largest() as seen:
        out, _, saved = plain.forward(args, True)
        plain.backward(args, torch.ones_like(out), None, saved)
    batch, dim, length, d_state = shape
    chunk = plain.TUNING['cpu'][0] + batch * dim * d_state  # and the state before it
    assert seen.values <= max(batch * dim * length * d_state / 4, chunk)
    assert seen.values <= 4 * inputs[0].numel()


class Operations(TorchDispatchMode):
    """Counts operations that are no views: on a device, each is a kernel to launch."""

    VIEWS = ('view', 'select', 'slice', 'expand', 'permute', 'transpose', 'unsqueeze', 'squeeze', 'as_strided', 'alias')
    VIEWS += ('_unsafe_view', 'detach', 't', 'unbind', 'split', 'split_with_sizes', 'unflatten', 'narrow')

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert 'cumsum' not in func.overloadpacket.__name__, 'an error in deterministic mode on a GPU'
        self.count += func.overloadpacket.__name__ not in self.VIEWS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ('shape', 'forward', 'backward'),
    [  # the second and third number are what the scan took before it was cut down to one file
        ((2, 384, 1024, 16), 207, 444),
        ((2, 384, 49, 16), 59, 126),
        ((2, 160, 196, 8), 80, 168),
        ((2, 160, 1024, 8), 134, 276),
        ((2, 192, 56, 56, 1), 490, 964),
        ((2, 768, 14, 14, 1), 182, 362),
        ((1, 192, 56, 56, 16), 563, 1163),
    ],
    ids=str,
)
def test_operations_where_each_is_a_launch(shape, forward, backward):
    """On any device but a CPU; none is here, and 'meta' counts as well as a GPU does."""
    if len(shape) == 4:
        args = single_path(*arguments(*shape, device='meta'), None, None, None, None, True, False, None)
    else:
        args = several(*shape, device='meta')
    with Operations() as counted:
        out, _, saved = plain.forward(args, True)
    assert counted.count <= forward
    with Operations() as counted:
        plain.backward(args, torch.empty_like(out), None, saved)
    assert counted.count <= backward


@pytest.mark.parametrize('d_state', [1, 3])
@pytest.mark.parametrize('paths', [cross_scan(5, 6), zigzag_scan(5, 6)], ids=['cross', 'zigzag'])
@pytest.mark.parametrize('combine', ['sum', 'stack'])
def test_half_precision_is_read_as_what_it_is(paths, combine, d_state):
    def scan(u, delta, A, B, C, D, bias, backend):
        u, delta, B, C = (x.bfloat16() for x in (u, delta, B, C))
        options = {'paths': paths, 'combine': combine, 'out_dtype': torch.float32, 'backend': backend}
        return selective_scan_paths(u, delta, -A.exp(), B, C, D, None, bias, True, **options)

    b, d, length, k = 2, 6, 30, 4
    inputs = [
        x.bfloat16()
        for x in (
            randn(b, k, d, length),
            randn(b, k, d, length, seed=1),
            randn(k, d, d_state) * 0.3,
            randn(b, k, d_state, length),
            randn(b, k, d_state, length, seed=2),
            randn(k, d),
            randn(k, d, seed=4),
        )
    ]
    found = {}
    for backend in ('reference', 'torch'):
        leaves = [x.float().requires_grad_() for x in inputs]
        out = scan(*leaves, backend=backend)
        found[backend] = [out, *torch.autograd.grad((out * randn(*out.shape).float()).sum(), leaves)]
    for number, (expected, got) in enumerate(zip(*found.values(), strict=True)):
        # Gradients of half-precision tensors are rounded to it.
        error = (got - expected).abs().max() / expected.abs().max()
        assert error < (1e-5 if number in (0, 3, 6, 7) else 8e-3), number


@pytest.mark.parametrize('softplus', [True, False])
@pytest.mark.parametrize('reverse', [True, False])
@pytest.mark.parametrize('d_state', [1, 3])
def test_states_groups_and_a_gradient_that_is_expanded(softplus, reverse, d_state):
    def scan(u, delta, A, B, C, D, bias, state, backend):
        options = {'initial_state': state, 'reverse': reverse, 'backend': backend}
        out, last = selective_scan(u, delta.abs(), -A.exp(), B, C, D, None, bias.abs(), softplus, True, **options)
        return out.sum(), last

    b, d, length, g = 3, 6, 29, 2
    compare(
        scan,
        (
            randn(b, d, length),
            randn(b, d, length, seed=1),
            randn(d, d_state) * 0.3,
            randn(b, g, d_state, length),
            randn(b, g, d_state, length, seed=2),
            randn(d),
            randn(d, seed=4),
            randn(b, d, d_state),
        ),
        'torch',
        torch.float64,
        1e-12,
    )


@pytest.mark.parametrize(('batch', 'length'), [(0, 6), (2, 0), (0, 0)])
@pytest.mark.parametrize('mapped', [False, True])
def test_nothing_to_scan(batch, length, mapped):
    paths = [torch.arange(length).flip(0), 'reverse'] if mapped else ['forward', 'reverse']
    leaves = [
        x.requires_grad_()
        for x in (
            randn(batch, 4, length),
            randn(batch, 2, 4, length),
            randn(2, 4, 1),
            randn(batch, 2, 1, length),
            randn(batch, 2, 1, length),
            randn(2, 4),
        )
    ]
    out = selective_scan_paths(*leaves, delta_softplus=True, paths=paths, backend='torch')
    assert out.shape == (batch, 4, length)
    for x, grad in zip(leaves, torch.autograd.grad(out.sum(), leaves), strict=True):
        assert torch.equal(grad, torch.zeros_like(x))


def test_softplus_does_not_overflow():
    ones = torch.ones(1, 3, 9)
    out = selective_scan(
        ones, 200 * ones, -torch.rand(3, 1), ones[:, :1], ones[:, :1], delta_softplus=True, backend='torch'
    )
    assert torch.allclose(out[..., 0], torch.tensor(200.0)) and out.isfinite().all()


def test_the_cut_does_not_depend_on_the_threads():
    """The backward pass may run under another number of them, and must cut alike."""
    args: ScanArguments = single_path(*arguments(2, 64, 200, 8), None, None, None, None, True, False, None)
    threads, cuts = torch.get_num_threads(), []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            cuts.append(plain.cut(args))
    finally:
        torch.set_num_threads(threads)
    assert cuts[0] == cuts[1]
