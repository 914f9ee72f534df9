"""The scan in ONNX against its definition: every order, direction and option, at sizes that the graph does not know."""

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('onnxscript', reason='the extra "export" is not installed')

from onnx_graphs import in_double, run, scan_model

from mmvim.deploy import export_onnx
from mmvim.deploy.compare import picture
from mmvim.ops import available_scan_paths, scan_paths, selective_scan_paths
from mmvim.ops.selective_scan.arguments import FOLLOWERS, several_paths, single_path
from mmvim.ops.selective_scan.reference import scan_reference

BATCH, DIM, STATES = 2, 6, 3
ORDERS = {
    'forward': ('row',),
    'reverse': ('row_reverse',),
    'both': ('row', 'row_reverse'),
    'cross': ('row', 'col', 'row_reverse', 'col_reverse'),
    'zigzag': ('zigzag_row', 'zigzag_col_reverse'),
    'padded': ('window2_padded', 'window2_padded_col_reverse'),
    'atrous': ('atrous2_1', 'atrous2_2', 'atrous2_3', 'atrous2_4'),
    'mixed': ('row', 'atrous2_1', 'zigzag_row_reverse'),
}
FOLLOW = {'all': FOLLOWERS, 'u': ('u',), 'none': ()}
DTYPES = {  # of what is read, and of the output
    'half': (torch.float32, torch.float16),
    'double': (torch.float32, torch.float64),
    'from_half': (torch.float16, torch.float32),
    'half_alone': (torch.float16, torch.float16),
}


def check(args, chunk, dynamic):
    """Compare output and last state with the definition in float64."""
    model, feed = scan_model(args, chunk, dynamic)
    dtypes = (args.out_dtype, args.A.dtype)
    for expected, found, dtype in zip(scan_reference(in_double(args)), run(model, **feed), dtypes, strict=True):
        found = torch.from_numpy(found)
        assert found.shape == expected.shape and found.dtype == dtype
        rounding = expected.abs() * (torch.finfo(dtype).eps if dtype == torch.float16 else 0)
        assert ((found - expected).abs() - rounding).max() < 1e-5 * max(1.0, expected.std().item())


def arguments(paths, follow, combine, groups, own, complete=True, seed=0, softplus=True):
    """Random arguments along paths; ``own`` has every path have tensors of its own."""
    generator = torch.Generator().manual_seed(seed)
    length, steps, each = paths[0].length, max(path.steps for path in paths), (len(paths),) if own else ()
    columns = {name: length if name in follow else steps for name in FOLLOWERS}

    def rand(*shape):
        return torch.randn(shape, generator=generator)

    def step_sizes(*shape):
        return rand(*shape) if softplus else rand(*shape).abs()  # otherwise states grow

    return several_paths(
        rand(BATCH, *each, DIM, columns['u']),
        step_sizes(BATCH, *each, DIM, columns['delta']),
        -rand(*each, DIM, STATES).exp(),
        rand(BATCH, *(each or (1,)), groups, STATES, columns['B']),
        rand(BATCH, *(each or (1,)), groups, STATES, columns['C']),
        rand(*each, DIM) if complete else None,
        rand(BATCH, DIM, length) if complete else None,
        step_sizes(*each, DIM) if complete else None,
        softplus,
        paths,
        follow,
        combine,
        None,
    )


@pytest.mark.covering(2)
@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('follow', FOLLOW)
@pytest.mark.parametrize('combine', ['sum', 'stack'])
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('own', [True, False], ids=['own', 'shared'])
@pytest.mark.parametrize('dynamic', [True, False], ids=['dynamic', 'static'])
@pytest.mark.parametrize('complete', [True, False], ids=['complete', 'bare'])
def test_along_paths(order, follow, combine, groups, own, dynamic, complete):
    paths = scan_paths(ORDERS[order], 3, 5)
    if order == 'mixed' and follow != 'all':  # which the op refuses: the paths differ in their number of steps
        follow = 'all'
    check(arguments(paths, FOLLOW[follow], combine, groups, own, complete), 4, dynamic)


@pytest.mark.covering(2)
@pytest.mark.parametrize('order', ['both', 'cross', 'padded', 'mixed'])
@pytest.mark.parametrize('combine', ['sum', 'stack'])
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('first', [True, False], ids=['state', 'zeros'])
@pytest.mark.parametrize('softplus', [True, False], ids=['softplus', 'plain'])
@pytest.mark.parametrize('dtypes', DTYPES)
@pytest.mark.parametrize('dynamic', [True, False], ids=['dynamic', 'static'])
def test_states_and_dtypes_along_paths(order, combine, groups, first, softplus, dtypes, dynamic):
    """Each path from a state of its own, steps as they are, and an output of another dtype than the input's."""
    dtype, out_dtype = DTYPES[dtypes]
    args = arguments(scan_paths(ORDERS[order], 3, 5), FOLLOWERS, combine, groups, first, softplus=softplus)
    given = {name: getattr(args, name).to(dtype) for name in ('u', 'delta', 'B', 'C', 'z')}
    if first:
        torch.manual_seed(0)
        given['initial_state'] = torch.randn(BATCH, args.num_paths, DIM, STATES)
    check(args._replace(**given, out_dtype=out_dtype), 4, dynamic)


@pytest.mark.parametrize('constant', ['', 'B', 'C', 'BC'])
@pytest.mark.parametrize('states', [1, 3])
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('reverse', [False, True])
def test_single_scans(constant, states, groups, reverse):
    torch.manual_seed(0)
    length = 15
    B, C = (
        torch.randn(DIM, states) if name in constant else torch.randn(BATCH, groups, states, length) for name in 'BC'
    )
    u, delta = torch.randn(2, BATCH, DIM, length)
    state = torch.randn(BATCH, DIM, states)
    args = single_path(u, delta.abs(), -torch.rand(DIM, states), B, C, None, None, None, state, False, reverse, None)
    check(args, 4, dynamic=True)


@pytest.mark.parametrize('length', [1, 3, 4, 5, 8, 33])
@pytest.mark.parametrize('chunk', [1, 4, 16])
@pytest.mark.parametrize('dynamic', [True, False], ids=['dynamic', 'static'])
def test_any_length_and_chunk(length, chunk, dynamic):
    check(arguments(scan_paths(('row', 'row_reverse'), 1, length), FOLLOWERS, 'sum', 1, True), chunk, dynamic)


@pytest.mark.parametrize('name', [name for name in available_scan_paths() if '_reverse' not in name])
def test_every_order(name):
    name = name.replace('<w>', '2').replace('<p>_<k>', '2_3')
    check(arguments(scan_paths((name, f'{name}_reverse'), 5, 3), FOLLOWERS, 'sum', 1, False), 4, True)


def test_one_model_serves_other_sizes():
    """The graph that is written of one call runs calls of other batches and lengths."""
    model, _ = scan_model(arguments(scan_paths(('row', 'row_reverse'), 3, 5), FOLLOWERS, 'sum', 1, True), 4, True)
    other = arguments(scan_paths(('row', 'row_reverse'), 7, 3), FOLLOWERS, 'sum', 1, True, seed=1)
    tensors = {name: x[:1] if name in ('u', 'delta', 'B', 'C', 'z') else x for name, x in other.tensors().items()}
    other = other._replace(**tensors)
    found = run(model, **{name: x.numpy() for name, x in tensors.items()}, length=np.array(21))
    assert np.abs(found[0] - scan_reference(in_double(other))[0].numpy()).max() < 1e-4


class Chain(nn.Module):
    """Scans of a picture, each from where the one before it has come to, or each for itself."""

    def __init__(self, names, softplus, chain=True):
        super().__init__()
        self.names, self.softplus, self.chain = names, softplus, chain

    def forward(self, image):
        u = image.flatten(2)  # (B, 3, L)
        delta, B, C = u.abs() * 0.05, u[:, 1:], u[:, :2]
        A = -torch.tensor([[0.5, 1.0], [0.2, 0.1], [2.0, 0.3]])
        paths = scan_paths(self.names, *image.shape[2:])
        options = {'combine': 'stack', 'out_dtype': torch.float64, 'chain': self.chain}
        return selective_scan_paths(u, delta, A, B, C, delta_softplus=self.softplus, paths=paths, **options)


@pytest.mark.slow
@pytest.mark.covering(1)
@pytest.mark.parametrize('order', ['cross', pytest.param('atrous', marks=pytest.mark.full), 'padded'])
@pytest.mark.parametrize('softplus', [True, False], ids=['softplus', 'plain'])
def test_a_chain(order, softplus, tmp_path):
    model = Chain(ORDERS[order], softplus)
    exported = export_onnx(model, tmp_path / 'chain.onnx', sizes=((6, 8), (5, 7), (9, 4)), tolerance=1e-5)
    x = picture(3, (7, 5))
    (found,) = run((tmp_path / 'chain.onnx').read_bytes(), image=x.numpy())
    assert found.dtype == np.float64 and len(exported.errors) == 3
    torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-5, atol=1e-5)
    alone = Chain(ORDERS[order], softplus, chain=False)(x)
    assert (model(x) - alone).abs().max() > 1e-3 * alone.std()  # the test sees what is handed on


@pytest.mark.parametrize('order', ['both', 'padded'])
def test_openvino(order):
    openvino = pytest.importorskip('openvino')
    args = arguments(scan_paths(ORDERS[order], 3, 5), FOLLOWERS, 'sum', 1, True)
    model, feed = scan_model(args, 4, dynamic=True)
    settings = {'INFERENCE_NUM_THREADS': 1, 'INFERENCE_PRECISION_HINT': 'f32'}
    compiled = openvino.Core().compile_model(openvino.Core().read_model(model), 'CPU', settings)
    read = {name for x in compiled.inputs for name in x.names}
    found = compiled({name: x for name, x in feed.items() if name in read})[0]
    expected = scan_reference(in_double(args))[0].numpy()
    assert np.abs(found - expected).max() < 1e-5 * expected.std()


def test_a_wrong_decay_is_seen():
    args = arguments(scan_paths(('row',), 3, 5), FOLLOWERS, 'sum', 1, True)
    with pytest.raises(AssertionError):
        model, feed = scan_model(args, 4, True)
        found = run(model, **{**feed, 'A': feed['A'] * 1.1})
        assert np.abs(found[0] - scan_reference(in_double(args))[0].numpy()).max() < 1e-4
