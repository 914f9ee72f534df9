"""Paths that leave positions out and have padding steps, tensors in the order of the steps, and chained paths."""

import pytest
import torch
import torch.nn.functional as F
from helpers import DEFINED, KINDS, compare, path_inputs_of, randn, scan_paths_of
from orders_by_hand import raster

from mmvim.ops import ScanPath, scan_paths, selective_scan, selective_scan_paths
from mmvim.ops.triton_host.device import interpreting

FOLLOWERS = ('u', 'delta', 'B', 'C')
LOCAL = ('row', 'window3_padded', 'col_reverse', 'window2_padded_reverse')
ATROUS = ('atrous2_1', 'atrous2_2', 'atrous2_3', 'atrous2_4')
SIZES = [(4, 5), (7, 3), (1, 1), (1, 6), (5, 1), (6, 6), (12, 11)]
# Where Triton interprets its kernels (test_triton.py), the smallest grid on which windows and lattices are incomplete.
SMALL = [(2, 3)] if interpreting() else None


def inputs_of(k, dim, d_state, steps, follow, length, batch=2, shared=False):
    """What the scan of k paths takes, each tensor with a column for each position or for each step."""
    own = () if shared else (k,)
    u, delta, A, B, C, D, z, bias = path_inputs_of(batch, own, dim, length, d_state)
    in_steps = path_inputs_of(batch, own, dim, steps, d_state)
    chosen = [
        given if name in follow else other
        for name, given, other in zip(
            FOLLOWERS, (u, delta, B, C), (in_steps[0], in_steps[1], *in_steps[3:5]), strict=True
        )
    ]
    return chosen[0], chosen[1], A, chosen[2], chosen[3], D, z, bias


def scan_of_copies(names, H, W, inputs, follow, combine):
    """The definition once more: copies padded and permuted by hand, scans that know no path, written back by hand."""
    u, delta, A, B, C, D, z, bias = inputs
    orders = [raster(name, H, W) for name in names]
    steps = max(map(len, orders))
    outputs = []
    for k, (name, order) in enumerate(zip(names, orders, strict=True)):
        rest = [-1] * (steps - len(order))
        order = torch.tensor(rest + order if name.endswith('_reverse') else order + rest)
        copies = []
        for who, x in zip(FOLLOWERS, (u, delta, B, C), strict=True):
            x = x if x.dim() == 3 else x[:, k]
            copies.append(F.pad(x, (0, 1))[..., order] if who in follow else x)  # -1 is the zero behind the end
        u_, delta_, B_, C_ = copies
        y = selective_scan(u_, delta_, -A[k].exp(), B_, C_, D[k], None, bias[k], True, backend='reference')
        out = y.new_zeros(*y.shape[:2], H * W)
        for t, position in enumerate(order.tolist()):
            if position >= 0:
                out[..., position] = y[..., t]
        outputs.append(out * F.silu(z))
    return torch.stack(outputs, 1) if combine == 'stack' else sum(outputs)


@pytest.mark.covering(2)
@pytest.mark.parametrize('names', [LOCAL, ATROUS, ('window3_padded',)], ids=['local', 'atrous', 'one'])
@pytest.mark.parametrize(('H', 'W'), SIZES[:5])
@pytest.mark.parametrize('combine', ['sum', 'stack'])
def test_the_definition_equals_scans_of_padded_copies(names, H, W, combine):
    paths = scan_paths(names, H, W)
    inputs = inputs_of(len(names), 4, 2, H * W, FOLLOWERS, H * W)
    expected = scan_of_copies(names, H, W, inputs, FOLLOWERS, combine)
    found = scan_paths_of(paths=paths, combine=combine)(*inputs, backend='reference')
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.covering(2)
@pytest.mark.parametrize('names', [LOCAL, ATROUS, ATROUS[3:]], ids=['local', 'atrous', 'one'])
@pytest.mark.parametrize(('H', 'W'), SMALL or SIZES)
@pytest.mark.parametrize('combine', ['sum', 'stack'])
@pytest.mark.parametrize('shared', [False, True], ids=['own', 'shared'])
@KINDS
def test_against_the_definition(names, H, W, combine, shared, backend, dtype, tolerance):
    paths = scan_paths(names, H, W)
    inputs = inputs_of(len(names), 5, 3, H * W, FOLLOWERS, H * W, shared=shared)
    compare(scan_paths_of(paths=paths, combine=combine), inputs, backend, dtype, tolerance)


@pytest.mark.covering(2)
@pytest.mark.parametrize('follow', [(), ('u',), ('u', 'B'), FOLLOWERS], ids=lambda names: '-'.join(names) or 'none')
@pytest.mark.parametrize('name', ['window3_padded', 'window2_padded_col_reverse', 'atrous2_4'])
@pytest.mark.parametrize('combine', ['sum', 'stack'])
@pytest.mark.parametrize(('H', 'W'), SMALL or [(7, 10)])
@KINDS
def test_tensors_in_the_order_of_the_steps(follow, name, combine, H, W, backend, dtype, tolerance):
    path = scan_paths(name, H, W)[0]
    for count in (1, 2):
        inputs = inputs_of(count, 5, 3, path.steps, follow, H * W)
        scan = scan_paths_of(paths=[path, path.reversed()][:count], follow=follow, combine=combine)
        compare(scan, inputs, backend, dtype, tolerance)


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('d_state', [1, 8, 16])
@KINDS
def test_channels_of_several_blocks(groups, d_state, backend, dtype, tolerance):
    """More channels than a vector has lanes, and more steps than a chunk."""
    H, W, k = 9, 11, 2
    inputs = (
        randn(1, 40, H * W),
        randn(1, k, 40, H * W, seed=1),
        randn(k, 40, d_state) * 0.3,
        randn(1, k, groups, d_state, H * W),
        randn(1, k, groups, d_state, H * W, seed=2),
        randn(k, 40),
        None,
        randn(k, 40),
    )
    compare(scan_paths_of(paths=scan_paths(('window4_padded', 'row'), H, W)), inputs, backend, dtype, tolerance)


@DEFINED
def test_padding_moves_the_state_and_positions_left_out_are_zero(backend, dtype):
    path = ScanPath.from_index(torch.tensor([1, -1, -1, 3]), length=5)
    ones, A = torch.ones(1, 1, 5, dtype=dtype), torch.tensor([[-0.5]], dtype=dtype)
    bias = torch.tensor([2.0], dtype=dtype)
    options = {'delta_bias': bias, 'paths': [path], 'backend': backend}
    y = selective_scan_paths(ones, torch.zeros_like(ones), A, ones, ones, **options)
    expected = [0, 2, 0, 2 + 2 * torch.tensor(-0.5 * 2 * 3).exp().item(), 0]  # three steps of delta 2, two of padding
    torch.testing.assert_close(y[0, 0].double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


@DEFINED
@pytest.mark.parametrize('combine', ['sum', 'stack'])
def test_what_no_step_visits_is_not_read(combine, backend, dtype):
    """Padding steps read zeros, and nothing comes back from positions left out, whatever is there."""
    length, left_out = 6, [0, 4]
    paths = [ScanPath.from_index(torch.tensor(order), length=length) for order in ([1, -1, 3, -1], [-1, 5, 2, -1])]
    found = []
    for anything in (0, float('nan')):
        inputs = [x for x in path_inputs_of(1, (), 3, length, 2, gated=False) if x is not None]
        scan = scan_paths_of(paths=paths, combine=combine)
        grad = randn(1, 3, length) if combine == 'sum' else randn(1, 2, 3, length)
        for x in (*inputs[:2], *inputs[3:5], grad):  # u, delta, B, C
            x[..., left_out] = anything
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        out = scan(*leaves[:6], None, leaves[6], backend=backend)
        found.append([out, *torch.autograd.grad(out, leaves, grad.to(dtype))])
    for clean, other in zip(*found, strict=True):
        assert torch.equal(clean, other)
    for x in (*found[1][:3], *found[1][4:6]):
        assert not x[..., left_out].any()


@pytest.mark.parametrize('names', [('row_reverse', 'col', 'col_reverse'), ATROUS], ids=['whole', 'partial'])
@KINDS
def test_chained_paths_are_one_sequence(names, backend, dtype, tolerance):
    H, W = 5, 4
    paths = scan_paths(names, H, W)
    inputs = path_inputs_of(2, (), 5, H * W, 3)

    def one_sequence(u, delta, A, B, C, D, z, bias, backend=None):
        order = torch.cat([path.order() for path in paths])
        u_, delta_, B_, C_ = (F.pad(x, (0, 1))[..., order] for x in (u, delta, B, C))
        y = selective_scan(u_, delta_, -A.exp(), B_, C_, D, None, bias, True, backend='reference')
        parts = y.unflatten(-1, (len(paths), -1)).unbind(2)
        out = [
            y.new_zeros(2, 5, H * W + 1).index_copy(-1, p.order() % (H * W + 1), x)
            for p, x in zip(paths, parts, strict=True)
        ]
        return torch.stack(out, 1)[..., :-1] * F.silu(z)[:, None]

    chained = scan_paths_of(paths=paths, combine='stack', chain=True)
    torch.testing.assert_close(chained(*inputs, backend='reference'), one_sequence(*inputs), rtol=1e-12, atol=1e-12)
    compare(chained, inputs, backend, dtype, tolerance)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'chain': True}, "chain=True needs combine='stack'"),
        ({'chain': True, 'combine': 'stack'}, r'as many steps of all paths, got \[24, 20\]'),
        ({'follow': ('delta',)}, r"follow=\('delta',\) must have 'u' or be empty"),
        ({'follow': ('u',)}, 'follow must be all of .* where paths differ in their number of steps'),
        ({'paths': scan_paths('window2_padded', 3, 3)}, r'u must have shape .*\(1, 2, 9\), got \(1, 2, 20\)'),
        ({'paths': [*scan_paths('window2_padded', 3, 3), 'forward', *scan_paths('row', 4, 5)]}, 'another path has L=9'),
    ],
)
def test_bad_arguments(changes, words):
    x, ones = torch.ones(1, 2, 20), torch.ones(1, 1, 20)
    options = {'paths': scan_paths(('window2_padded', 'row'), 4, 5), **changes}
    with pytest.raises(ValueError, match=words):
        selective_scan_paths(x, x, -torch.ones(2, 1), ones, ones, **options)


class Local(torch.nn.Module):
    """A scan whose paths have different numbers of steps, at any size."""

    def forward(self, x):
        paths = scan_paths(LOCAL, *x.shape[2:], device=x.device)
        x = x.flatten(2)
        ones = torch.ones_like(x[:, :1])
        return selective_scan_paths(x, x.abs(), -torch.ones_like(x[0, :, :1]), ones, ones, paths=paths, combine='stack')


@pytest.mark.parametrize('strict', [False, True])
def test_exported_scans_serve_every_size(strict):
    dynamic = ({2: torch.export.Dim('H', min=2, max=64), 3: torch.export.Dim('W', min=2, max=64)},)
    program = torch.export.export(Local(), (torch.rand(1, 2, 7, 5),), dynamic_shapes=dynamic, strict=strict)
    for H, W in SIZES[:2] + SIZES[5:]:
        x = torch.rand(1, 2, H, W)
        torch.testing.assert_close(program.module()(x), Local()(x))


def test_compiled_scans_serve_every_size():
    torch._dynamo.reset()
    compiled = torch.compile(Local(), backend='aot_eager', fullgraph=True, dynamic=True)
    for H, W in SIZES[:2] + SIZES[5:]:
        x, y = (torch.rand(1, 2, H, W, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2))
        torch.testing.assert_close(compiled(x), Local()(y))
        compiled(x).square().sum().backward()
        Local()(y).square().sum().backward()
        torch.testing.assert_close(x.grad, y.grad)
