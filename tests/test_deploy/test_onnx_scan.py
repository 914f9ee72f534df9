"""The scan in ONNX against its definition: every order, direction and option, at sizes that the graph does not know."""

import numpy as np
import pytest
import torch

pytest.importorskip('onnxscript', reason='the extra "export" is not installed')

from onnx_graphs import in_double, run, scan_model

from mmvim.ops import available_scan_paths, scan_paths
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


def check(args, chunk, dynamic):
    """Compare output and last state with the definition in float64."""
    model, feed = scan_model(args, chunk, dynamic)
    for expected, found in zip(scan_reference(in_double(args)), run(model, **feed), strict=True):
        assert found.shape == tuple(expected.shape)
        assert np.abs(found - expected.numpy()).max() < 1e-5 * max(1.0, expected.std().item())


def arguments(paths, follow, combine, groups, own, complete=True, seed=0):
    """Random arguments along paths; ``own`` has every path have tensors of its own."""
    generator = torch.Generator().manual_seed(seed)
    length, steps, each = paths[0].length, max(path.steps for path in paths), (len(paths),) if own else ()
    columns = {name: length if name in follow else steps for name in FOLLOWERS}

    def rand(*shape):
        return torch.randn(shape, generator=generator)

    return several_paths(
        rand(BATCH, *each, DIM, columns['u']),
        rand(BATCH, *each, DIM, columns['delta']),
        -rand(*each, DIM, STATES).exp(),
        rand(BATCH, *(each or (1,)), groups, STATES, columns['B']),
        rand(BATCH, *(each or (1,)), groups, STATES, columns['C']),
        rand(*each, DIM) if complete else None,
        rand(BATCH, DIM, length) if complete else None,
        rand(*each, DIM) if complete else None,
        True,
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
