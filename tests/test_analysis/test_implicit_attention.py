"""The scan as a matrix: it reproduces what the operator returned, for every family, and its rows say from where."""

import pytest
import torch
from families import FAMILY_CASES
from family_cases.base import randomised

from mmvim.analysis.visualize.attention import attention_map, attention_row, delta_map, reproduce
from mmvim.analysis.visualize.record import NoScanError, record_scans
from mmvim.models import MambaVision, SelectiveScan2D, Vim
from mmvim.ops import scan_orders, selective_scan, selective_scan_paths
from mmvim.ops.scan_paths import scan_order, scan_paths

SCANNING = [name for name, case in FAMILY_CASES.items() if case.scan.operator == 'mmvim::selective_scan_fwd']
PICTURE = torch.randn(1, 3, 80, 48, generator=torch.Generator().manual_seed(0))


class Scan(torch.nn.Module):
    """A call of the operator as a module, so that it can be recorded."""

    def __init__(self, function, **options):
        super().__init__()
        self.function, self.options = function, options

    def forward(self, u):
        return self.function(u, **self.options)


def tensors(dim=4, states=3, length=12, paths=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lead = (1, paths) if paths else (1,)
    return {
        'delta': torch.randn(*lead, dim, length, generator=generator),
        'A': -torch.rand(dim, states, generator=generator) - 0.1,
        'B': torch.randn(*lead, states, length, generator=generator),
        'C': torch.randn(*lead, states, length, generator=generator),
        'D': torch.randn(dim, generator=generator),
        'z': torch.randn(1, dim, length, generator=generator),
        'delta_bias': torch.randn(dim, generator=generator),
        'delta_softplus': True,
    }, torch.randn(1, dim, length, generator=generator)


def close(found, expected):
    scale = expected.double().abs().max()
    return bool((found - expected.double()).abs().max() <= 1e-4 * scale)


@pytest.mark.parametrize('family', SCANNING)
def test_the_matrix_reproduces_the_scan_of_every_family(family):
    scans = record_scans(
        randomised(FAMILY_CASES[family].build_tiny(), scale=0.5), PICTURE
    )  # a new model's scan is mostly D
    assert scans
    for scan in scans:
        assert close(reproduce(scan), scan.out), scan.layer
        spoilt = scan.args._replace(A=scan.args.A * 1.1)
        assert not close(reproduce(type(scan)(**{**vars(scan), 'args': spoilt})), scan.out), 'sees no decay'


@pytest.mark.parametrize('family', SCANNING)
def test_rows_add_up_to_the_output_of_every_family(family):
    """A row, which is what is drawn, times u; where padding steps read nothing, and u lies in raster order."""
    for scan in record_scans(randomised(FAMILY_CASES[family].build_tiny(), scale=0.5), PICTURE)[-3:]:
        args = scan.args
        assert args.follow[0] or args.maps is None or family == 'localvim'
        for position in {0, args.length // 2, args.length - 1}:
            rows = torch.stack([attention_row(scan, path, position) for path in range(args.num_paths)])  # (K, D, L)
            u = args.u[0].double()  # (1|K, D, L)
            if not args.follow[0]:  # in the order of the steps
                at = [scan.order(path).argsort() for path in range(args.num_paths)]
                u = torch.stack([u[0][:, order] for order in at])
            y = (rows * u).sum(-1)  # (K, D)
            expected = scan.out[0, ..., position]
            assert close(y if args.stack else y.sum(0), expected), (scan.layer, position)


@pytest.mark.parametrize('names', [('row', 'row_reverse'), ('col', 'window2_reverse'), ('window3_padded', 'atrous2_3')])
@pytest.mark.parametrize('combine', ['sum', 'stack'])
def test_directions_of_one_call(names, combine):
    options, u = tensors(length=15, paths=2)
    model = Scan(selective_scan_paths, **options, paths=scan_paths(names, 3, 5), combine=combine)
    (scan,) = record_scans(model, u)
    assert close(reproduce(scan), scan.out)


def test_reverse_groups_and_initial_state():
    options, u = tensors()
    options.update(B=torch.randn(1, 2, 3, 12), C=torch.randn(4, 3))  # two groups; constant in time
    start = torch.randn(1, 4, 3)
    (scan,) = record_scans(Scan(selective_scan, **options, reverse=True, initial_state=start), u)
    assert scan.paths == ('backward',) and close(reproduce(scan), scan.out)
    without = scan.args._replace(initial_state=None)
    assert not close(reproduce(type(scan)(**{**vars(scan), 'args': without})), scan.out)


def test_a_chain_shows_what_earlier_paths_have_written():
    options, u = tensors(length=6, paths=2)
    model = Scan(selective_scan_paths, **options, paths=scan_paths(('row', 'row'), 2, 3), combine='stack', chain=True)
    first, second = record_scans(model, u)
    assert second.previous is first and first.previous is None
    assert (attention_row(first, 0, 0)[0] != 0).tolist() == [True] + [False] * 5
    assert bool((attention_row(second, 0, 0) != 0).all()), 'the first step of the second path has seen all of the first'


def test_a_row_looks_only_back():
    (scan,) = record_scans(SelectiveScan2D(8, paths=('zigzag_row', 'zigzag_row_reverse')), torch.randn(1, 8, 3, 4))
    seen = [(attention_map(scan, path, 1, 1) > 0).int().tolist() for path in (0, 1)]
    assert seen[0] == [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]], 'the second row runs from the right'
    assert seen[1] == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]


def test_a_class_token_is_no_cell():
    model = Vim({'embed_dims': 16, 'depth': 1}, img_size=32, cls_token='middle')
    (scan,) = record_scans(model, torch.randn(1, 3, 48, 80))
    assert scan.layout.grid == (3, 5) and (scan.layout.cells == -1).nonzero().tolist() == [[0, 7]]
    seen = attention_map(scan, 0, 1, 2)
    assert seen.shape == (3, 5) and (seen > 0).sum() == 8 and scan.paths == ('forward', 'backward')


def test_windows_are_put_back_on_the_map():
    arch = {'depths': (1, 1, 2, 2), 'dim': 8, 'in_dim': 8, 'num_heads': (1, 1, 2, 2), 'window_sizes': (8, 8, 4, 4)}
    scan = record_scans(MambaVision(arch), torch.randn(1, 3, 96, 160))[0]
    assert scan.layout.grid == (6, 10) and len(scan.layout.cells) == 6
    seen = attention_map(scan, 0, 1, 5)
    assert seen.isfinite().nonzero().tolist() == [[i, j] for i in range(4) for j in range(4, 8)], 'the window alone'
    assert (seen > 0).nonzero().tolist() == [[0, 4], [0, 5], [0, 6], [0, 7], [1, 4], [1, 5]]
    assert delta_map(scan, 0).isfinite().all()


def test_delta_maps_are_what_the_scan_was_given():
    options, u = tensors(length=15, paths=2)
    model = Scan(selective_scan_paths, **options, paths=scan_paths(('col', 'atrous2_1'), 3, 5))
    (scan,) = record_scans(model, u)
    expected = torch.nn.functional.softplus(options['delta'] + options['delta_bias'][:, None]).mean(2)[0].double()
    assert torch.allclose(delta_map(scan, 0).flatten(), expected[0], atol=1e-6)
    visited = [0, 2, 4, 10, 12, 14]
    assert delta_map(scan, 1).flatten().isfinite().nonzero().flatten().tolist() == visited
    assert torch.allclose(delta_map(scan, 1).flatten()[visited], expected[1, visited], atol=1e-6)


def test_paths_are_named_by_what_they_visit():
    names = ('window3_col_reverse', 'hilbert', 'antidiagonal')
    mixer = SelectiveScan2D(4, paths=names, expand=1, d_state=2)
    (scan,) = record_scans(mixer, torch.randn(1, 4, 4, 5))
    assert scan.paths == names
    mixer.paths = list(names)  # does not say them any more
    (scan,) = record_scans(mixer, torch.randn(1, 4, 4, 5))
    assert scan.paths == names


def test_bad_input():
    with pytest.raises(NoScanError, match='runs no selective scan'):
        record_scans(FAMILY_CASES['vrwkv'].build_tiny(), PICTURE)
    with pytest.raises(NoScanError, match="backend 'reference'"):
        record_scans(FAMILY_CASES['vim'].build_tiny(scan_backend='reference'), PICTURE)
    with pytest.raises(ValueError, match='batch of one'):
        record_scans(FAMILY_CASES['vim'].build_tiny(), PICTURE.expand(2, -1, -1, -1))
    (scan,) = record_scans(SelectiveScan2D(8), torch.randn(1, 8, 3, 5))
    with pytest.raises(ValueError, match=r'path=4 must lie in 0\.\.3'):
        attention_row(scan, 4, 0)
    with pytest.raises(ValueError, match=r'cell \(3, 0\) is outside'):
        attention_map(scan, 0, 3, 0)


def test_a_model_is_left_as_it_was():
    model = FAMILY_CASES['vim'].build_tiny().train()
    before = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    record_scans(model, PICTURE)
    assert model.training
    assert before == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_an_order_of_ones_own_is_drawn_like_any_other(monkeypatch):
    monkeypatch.setattr(scan_orders, '_ORDERS', {**scan_orders._ORDERS})  # which must not stay behind

    @scan_order('upwards_of_a_picture_test')
    def upwards(H, W, device):
        t = torch.arange(H * W, device=device)
        return (H - 1 - t // W) * W + t % W

    (scan,) = record_scans(SelectiveScan2D(8, paths=('upwards_of_a_picture_test',)), torch.randn(1, 8, 3, 4))
    assert (attention_map(scan, 0, 1, 1) > 0).int().tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
