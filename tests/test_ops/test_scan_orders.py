"""The dictionary of scan orders: orders of a user's own, and what compiled and exported graphs make of all of them."""

import re

import pytest
import torch
from orders_by_hand import NAMES, SIZES, WHOLE, raster
from torch.utils._python_dispatch import TorchDispatchMode

from mmvim.ops import ScanPath, available_scan_paths, scan_order, scan_orders, scan_paths, selective_scan_paths
from mmvim.ops.scan_paths import _cache

PARTIAL = [name for name in NAMES if name not in WHOLE]

# What a graph may make an order of. Nothing of it copies, and nothing comes from outside of the graph.
ARITHMETIC = {'arange', 'floor_divide', 'remainder', 'mul', 'add', 'sub', 'rsub', 'eq', 'where', 'clamp', 'flip'}
ARITHMETIC |= {'lt', 'bitwise_and', '__and__', 'and_', 'argsort', 'sort'}
ARITHMETIC |= {'floordiv', 'mod'}  # as TorchDynamo calls them


def test_the_table_has_every_order():
    table = re.findall(r'^``(\S+)``', scan_orders.__doc__, re.MULTILINE)
    published = {name for name, order in scan_orders._ORDERS.items() if order in scan_orders.PUBLISHED}
    assert {name.removesuffix('_reverse') for name in table} - {'<name>'} == published


@pytest.fixture
def clean_orders(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(scan_orders, '_ORDERS', dict(scan_orders._ORDERS))
    _cache.clear()
    yield
    _cache.clear()


def upwards(H, W, device):
    t = torch.arange(H * W, device=device)
    return (H - 1 - t // W) * W + t % W


def upwards_in_a_loop(H, W, device):
    return torch.tensor([i * W + j for i in range(H - 1, -1, -1) for j in range(W)], device=device)


def test_an_order_of_ones_own(clean_orders):
    assert scan_order('mine')(upwards) is upwards
    paths = scan_paths(('mine', 'mine_reverse'), 2, 3)
    assert [path.order().tolist() for path in paths] == [[3, 4, 5, 0, 1, 2], [2, 1, 0, 5, 4, 3]]
    assert paths[0].index is paths[1].index and available_scan_paths()[-2:] == ('mine', 'mine_reverse')
    with pytest.raises(ValueError, match='mine_reverse'):
        scan_paths('yours', 2, 3)


def test_an_order_with_parameters(clean_orders):
    @scan_order('shift<by>_of<parts>')
    def shift(H, W, device, by, parts):
        return (torch.arange(H * W, device=device) + by * parts) % (H * W)

    assert scan_paths('shift1_of2_reverse', 1, 5)[0].order().tolist() == [1, 0, 4, 3, 2]
    assert scan_paths('shift1_of2', 1, 5)[0].key == ('shift1_of2', 1, 5)


def test_an_order_of_ones_own_in_a_config(clean_orders):
    from mmvim.registry import MODELS

    scan_order('mine')(upwards)
    layer = MODELS.build({'type': 'SelectiveScan2D', 'embed_dims': 4, 'd_state': 1, 'paths': ('mine', 'mine_reverse')})
    assert layer(torch.zeros(1, 4, 2, 3)).shape == (1, 4, 2, 3)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('row', "'row' .* is taken by 'row'; choose another name"),
        ('window7', "'window7' .* is taken by 'window<w>'"),
        ('window<size>', "'window<size>' .* is taken by 'window<w>'"),
        ('<anything>', "is taken by 'x1'"),
        ('mine_reverse', "'mine_reverse' .*must not end in '_reverse'.*register 'mine'"),
        ('my order', "got 'my order'; write @scan_order"),
        ('', "got ''"),
        (upwards, 'got <function upwards.*write @scan_order'),
    ],
)
def test_names_that_cannot_be_registered(clean_orders, name, words):
    if name == '<anything>':
        scan_orders._ORDERS['x1'] = scan_orders.Order(re.compile('1'), (), upwards, True, False)
    before = dict(scan_orders._ORDERS)
    with pytest.raises(ValueError, match=words):
        scan_order(name)(upwards)
    assert before == scan_orders._ORDERS


@pytest.mark.parametrize(
    ('returned', 'error', 'words'),
    [
        ([0, 1], TypeError, r"scan order 'mine' returns at H=2, W=3 must be an int64 tensor, got list; .*\.long\(\)"),
        (torch.arange(6.0), TypeError, r"'mine' .*float32; convert it with \.long\(\)"),
        (torch.arange(5), ValueError, r"'mine' .*\(6,\), .*got \(5,\)"),
        (torch.arange(6).view(2, 3), ValueError, r"'mine' .*\(6,\), .*got \(2, 3\)"),
        (
            torch.tensor([0, 1, 2, 3, 4, 4]),
            ValueError,
            r"'mine' returns at H=2, W=3 must hold each of 0\.\.5 exactly once",
        ),
        (torch.arange(6, device='meta'), ValueError, r"'mine' .*must be on cpu, got meta; make it with device=device"),
    ],
)
def test_what_is_not_an_order(clean_orders, returned, error, words):
    scan_order('mine')(lambda H, W, device: returned)
    with pytest.raises(error, match=words):
        scan_paths('mine', 2, 3)
    assert not _cache


def test_a_partial_order_of_ones_own(clean_orders):
    @scan_order('every<n>', partial=True)
    def every(H, W, device, n):
        return torch.cat([torch.arange(0, H * W, n, device=device), torch.full((1,), -1, device=device)])

    (path,) = scan_paths('every2_reverse', 1, 5)
    assert path.partial and path.order().tolist() == [-1, 4, 2, 0] and path.inverse().tolist() == [3, -1, 2, -1, 1]
    scan_order('twice', partial=True)(lambda H, W, device: torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"'twice' returns at H=2, W=3 must hold each of 0\.\.5 at most once"):
        scan_paths('twice', 2, 3)
    scan_order('short')(lambda H, W, device: torch.arange(5))
    with pytest.raises(ValueError, match=r"'short' .*must have shape \(6,\)"):  # not said to be partial
        scan_paths('short', 2, 3)


def test_each_size_is_checked_once(clean_orders):
    calls = []

    @scan_order('mine')
    def mine(H, W, device):
        calls.append((H, W))
        return torch.arange(H * W, device=device)

    for size in ((2, 3), (2, 3), (3, 2), (2, 3)):
        scan_paths(('mine', 'mine_reverse'), *size)
    assert calls == [(2, 3), (3, 2)]


class Walk(torch.nn.Module):
    """Positions in the order of each path."""

    def __init__(self, *names):
        super().__init__()
        self.names = names

    def forward(self, x):
        return [path.order() for path in scan_paths(self.names, *x.shape, device=x.device)]


def check(walk, names, sizes=SIZES[3:]):
    for H, W in sizes:
        found = walk(torch.zeros(H, W))
        assert [x.tolist() for x in found] == [raster(name, H, W) for name in names], (H, W)


def operations(graph):
    """Names of the functions that a graph calls, sizes and output apart; no tensor of it is a constant."""
    assert not [node for node in graph.nodes if node.op == 'get_attr']
    names = {getattr(node.target, '__name__', node.target).split('.')[0] for node in graph.nodes if 'call' in node.op}
    return names - {'sym_size', 'size', 'getitem'}


def compiled(module, **options):
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    return torch.compile(module, backend=keep, fullgraph=True, **options), graphs


@pytest.mark.parametrize('strict', [False, True])
@pytest.mark.parametrize(('names', 'sizes'), [(WHOLE, SIZES), (PARTIAL, SIZES[1:])], ids=['whole', 'partial'])
def test_exported_orders_serve_every_size(names, sizes, strict):
    """On a single cell an atrous path has one step, and PyTorch exports for two or more."""
    dynamic = {0: torch.export.Dim('H', min=1), 1: torch.export.Dim('W', min=1)}
    program = torch.export.export(Walk(*names), (torch.zeros(5, 7),), dynamic_shapes=(dynamic,), strict=strict)
    assert not program.constants and not program.state_dict
    assert operations(program.graph) <= ARITHMETIC
    check(program.module(), names, sizes)


def test_compiled_orders_serve_every_size():
    walk, graphs = compiled(Walk(*NAMES), dynamic=True)
    check(walk, NAMES)
    assert len(graphs) == 1
    assert operations(graphs[0].graph) <= ARITHMETIC


def test_orders_are_made_on_their_device():
    """No operation takes or makes a tensor elsewhere: on a fake GPU, for which no GPU is needed."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    class Devices(TorchDispatchMode):
        seen = frozenset()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            self.seen |= {x.device.type for x in (*args, result) if isinstance(x, torch.Tensor)}
            return result

    with FakeTensorMode(), Devices() as devices:
        paths = scan_paths(NAMES, 5, 7, device='cuda')
    assert devices.seen == {'cuda'} == {path.index.device.type for path in paths if path.index is not None}


SEVERAL = ('row', 'col', 'col_reverse', 'row_reverse', 'zigzag_row_reverse', 'zigzag_row', 'window2', 'window2_reverse')


class Scan(torch.nn.Module):
    def forward(self, x):
        paths = [scan_paths(name, *x.shape[2:], device=x.device)[0] for name in SEVERAL]
        x = x.flatten(2)
        A, ones = -torch.ones(x.shape[1], 1, dtype=x.dtype), torch.ones_like(x[:, :1])
        return selective_scan_paths(x, torch.ones_like(x), A, ones, ones, paths=paths, backend='torch')


def stacked(graph):
    """How many index maps each stack of a graph joins."""
    nodes = [node for node in graph.nodes if node.op == 'call_function' and 'stack' in str(node.target)]
    return [len(node.args[0]) for node in nodes]


def test_a_graph_stacks_each_map_once():
    x = torch.rand(1, 2, 4, 5, dtype=torch.float64)
    expected = Scan()(x)
    program = torch.export.export(Scan(), (x,))
    assert stacked(program.graph) == [3]
    torch.testing.assert_close(program.module()(x), expected)
    scan, graphs = compiled(Scan(), dynamic=True)
    torch.testing.assert_close(scan(x), expected)
    assert [stacked(graph.graph) for graph in graphs] == [[3]]


def test_maps_are_shared_by_name_and_size_or_by_tensor():
    from mmvim.ops.selective_scan.walk import resolve_paths

    index = torch.arange(12)
    mine = ScanPath.from_index(index)
    paths = [*scan_paths(('col', 'row'), 3, 4), *scan_paths(('col',), 4, 3), mine, mine.reversed(), index.clone()]
    twice = ScanPath(12, paths[0].index.clone(), True, 'col_reverse', ('col', 3, 4))  # what a trace makes
    maps, map_ids, reverse, *_ = resolve_paths([*paths, twice], 12, torch.device('cpu'))
    assert map_ids == (0, -1, 1, 2, 2, 3, 0) and reverse == (False, False, False, False, True, False, True)
    assert maps.tolist() == [raster('col', 3, 4), raster('col', 4, 3), list(range(12)), list(range(12))]


def test_an_order_built_in_python_exports_at_fixed_sizes_only(clean_orders):
    scan_order('mine', traceable=False)(upwards_in_a_loop)
    walk, x = Walk('mine', 'mine_reverse'), torch.zeros(5, 7)
    expected = [y.tolist() for y in walk(x)]
    program = torch.export.export(walk, (x,))
    assert [y.tolist() for y in program.module()(x)] == expected
    dynamic = ({0: torch.export.Dim('H'), 1: torch.export.Dim('W')},)
    with pytest.raises(
        ValueError, match=r"'mine' is built in Python \(traceable=False\) and exports at fixed sizes only"
    ):
        torch.export.export(walk, (x,), dynamic_shapes=dynamic, strict=False)


def test_an_order_built_in_python_compiles_anew_for_each_size(clean_orders):
    scan_order('mine', traceable=False)(upwards_in_a_loop)
    walk, graphs = compiled(Walk('mine', 'mine_reverse'), dynamic=True)
    for H, W in ((2, 3), (4, 5), (2, 3)):
        expected = upwards(H, W, 'cpu')
        first, second = walk(torch.zeros(H, W))
        assert torch.equal(first, expected) and torch.equal(second, expected.flip(0))
    assert len(graphs) == 2
