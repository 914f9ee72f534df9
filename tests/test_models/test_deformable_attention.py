"""Deformable attention: samples as written out, mmcv's layout, its operator where there is one, and float32 inside."""

import math
import sys

import pytest
import torch
from adapter_by_hand import attend, sample
from torch.utils._python_dispatch import TorchDispatchMode

from mmvim.models.layers import deformable_attention
from mmvim.models.layers.deformable_attention import DeformableAttention, cell_centres, sample_maps

SHAPES = [(4, 6), (3, 2), (1, 1)]
CELLS = sum(h * w for h, w in SHAPES)


def problem(batch=2, heads=2, queries=5, points=3, reach=1.6):
    """Values, locations, of which some are outside of every map, and weights, in float64."""
    torch.manual_seed(0)
    value = torch.randn(batch, CELLS, heads, 4, dtype=torch.float64)
    locations = (torch.rand(batch, queries, heads, len(SHAPES), points, 2, dtype=torch.float64) - 0.5) * reach + 0.5
    weights = torch.randn(batch, queries, heads, len(SHAPES), points, dtype=torch.float64)
    return value, locations, weights


def gradients(function, value, locations, weights):
    inputs = [x.clone().requires_grad_() for x in (value, locations, weights)]
    y = function(inputs[0], SHAPES, *inputs[1:])
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    return y, *torch.autograd.grad((y * cotangent).sum(), inputs)


@pytest.mark.parametrize('batch', [1, 2])
def test_samples_as_written_out(batch):
    given = problem(batch)
    for name, got, wanted in zip(
        ('output', 'value', 'locations', 'weights'),
        gradients(sample_maps, *given),
        gradients(sample, *given),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9, msg=name)


def test_a_wrong_convention_is_seen():
    """The control: x and y swapped, corners for centres, the border for zeros."""
    value, locations, weights = problem()
    wanted = sample(value, SHAPES, locations, weights)
    assert not torch.allclose(sample_maps(value, SHAPES, locations.flip(-1), weights), wanted, atol=1e-2)
    moved = locations + 0.5 / torch.tensor([[w, h] for h, w in SHAPES])[:, None]
    assert not torch.allclose(sample_maps(value, SHAPES, moved, weights), wanted, atol=1e-2)
    inside = locations.clamp(0.2, 0.8)
    assert not torch.allclose(sample_maps(value, SHAPES, inside, weights), wanted, atol=1e-2)


@pytest.fixture
def _operators():
    pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators')


@pytest.mark.usefixtures('_operators')
def test_mmcvs_function_computes_the_same():
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    value, locations, weights = problem()
    wanted = multi_scale_deformable_attn_pytorch(value, torch.tensor(SHAPES), locations, weights)
    torch.testing.assert_close(sample_maps(value, SHAPES, locations, weights), wanted, rtol=1e-12, atol=1e-12)


def attention(**options):
    torch.manual_seed(0)
    built = DeformableAttention(16, **{'num_heads': 2, 'num_levels': len(SHAPES), **options}).double()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built


@pytest.mark.usefixtures('_operators')
@pytest.mark.parametrize('value_ratio', [1.0, 0.5])
def test_weights_of_mmcvs_layer_fit(value_ratio):
    """Strictly, and with them the same output but for the query, which mmcv's adds."""
    from mmcv.ops import MultiScaleDeformableAttention

    ours = attention(value_ratio=value_ratio)
    theirs = MultiScaleDeformableAttention(
        16, 2, len(SHAPES), 4, dropout=0.0, batch_first=True, value_proj_ratio=value_ratio
    ).double()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    query, feature = torch.randn(2, 6, 16).double(), torch.randn(2, CELLS, 16).double()
    reference = cell_centres([(2, 3)], torch.float64, query.device)
    starts = torch.tensor([0, 24, 30])
    wanted = theirs(
        query,
        value=feature,
        reference_points=reference.expand(2, -1, len(SHAPES), -1),
        spatial_shapes=torch.tensor(SHAPES),
        level_start_index=starts,
    )
    torch.testing.assert_close(ours(query, reference, feature, SHAPES), wanted - query, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('value_ratio', [1.0, 0.5])
def test_layer_as_written_out(value_ratio):
    layer = attention(value_ratio=value_ratio)
    query, feature = torch.randn(2, 6, 16).double(), torch.randn(2, CELLS, 16).double()
    reference = cell_centres([(2, 3)], torch.float64, query.device)
    weights = {f'a.{name}': p for name, p in layer.named_parameters()}
    wanted = attend(weights, 'a', query, reference[0, :, 0].tolist(), feature, SHAPES, 2)
    torch.testing.assert_close(layer(query, reference, feature, SHAPES), wanted, rtol=1e-9, atol=1e-9)


def test_a_new_layer_samples_along_rays():
    layer = DeformableAttention(16, num_heads=4, num_levels=2, num_points=3)
    assert not layer.sampling_offsets.weight.any() and not layer.attention_weights.weight.any()
    offsets = layer.sampling_offsets.bias.reshape(4, 2, 3, 2)
    for head, ray in enumerate([(1, 0), (0, 1), (-1, 0), (0, -1)]):
        for point in range(3):
            wanted = torch.tensor(ray, dtype=torch.float32) * (point + 1)
            torch.testing.assert_close(offsets[head, :, point], wanted.expand(2, 2), rtol=0, atol=1e-6)
    diagonal = DeformableAttention(16, num_heads=8, num_levels=1).sampling_offsets.bias.reshape(8, 4, 2)[1, 0]
    torch.testing.assert_close(diagonal, torch.ones(2))


class Sampling(TorchDispatchMode):
    """Notes the dtypes of maps and points that are sampled."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.grid_sampler_2d.default:
            self.seen.add((args[0].dtype, args[1].dtype))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('how', ['autocast', 'half', 'double'])
def test_points_and_samples_are_never_in_half_precision(how):
    layer = attention().float()
    query, feature = torch.randn(2, 6, 16), torch.randn(2, CELLS, 16)
    reference, dtype = cell_centres([(2, 3)], torch.float32, query.device), torch.bfloat16
    if how != 'autocast':
        dtype = torch.bfloat16 if how == 'half' else torch.float64
        layer, query, feature = layer.to(dtype), query.to(dtype), feature.to(dtype)
    with torch.autocast('cpu', torch.bfloat16, enabled=how == 'autocast'), Sampling() as sampling:
        y = layer(query, reference, feature, SHAPES)
    inside = torch.float64 if how == 'double' else torch.float32
    assert y.dtype == dtype and sampling.seen == {(inside, inside)}


@pytest.mark.usefixtures('_operators')
def test_arguments_of_mmcvs_operator(monkeypatch):
    """Where it serves, it gets what mmcv's function in PyTorch takes: contiguous, and a batch in equal parts."""
    from mmcv.ops import multi_scale_deform_attn as mmcv_layer

    parts = []

    class Operator:
        @staticmethod
        def apply(value, sides, starts, locations, weights, part):
            assert all(x.is_contiguous() for x in (value, locations, weights))
            assert starts.tolist() == [0, 24, 30] and sides.tolist() == [list(shape) for shape in SHAPES]
            assert len(value) % part == 0
            parts.append(part)
            return mmcv_layer.multi_scale_deformable_attn_pytorch(value, sides, locations, weights)

    monkeypatch.setattr(mmcv_layer, 'MultiScaleDeformableAttnFunction', Operator)
    for batch in (1, 3, 66):
        value, locations, weights = problem(batch, queries=2)
        strided = value.transpose(0, 1).contiguous().transpose(0, 1)
        got = deformable_attention._sample_with_mmcv(strided, SHAPES, locations, weights)
        torch.testing.assert_close(got, sample_maps(value, SHAPES, locations, weights))
    assert parts == [1, 3, math.gcd(66, 64)]


def test_mmcv_without_operators(monkeypatch):
    """Its package of operators cannot be imported then."""
    deformable_attention._mmcv_runs.cache_clear()
    monkeypatch.setitem(sys.modules, 'mmcv.ops.multi_scale_deform_attn', None)
    with pytest.warns(UserWarning, match='does not run on cpu .ModuleNotFoundError.*compiled with CUDA operators'):
        assert not deformable_attention._mmcv_runs(torch.device('cpu'))
    deformable_attention._mmcv_runs.cache_clear()


@pytest.mark.usefixtures('_operators')
def test_an_operator_that_does_not_run_is_replaced(monkeypatch):
    """As with mmcv-lite, or mmcv compiled without CUDA: one warning that says what to do."""
    from mmcv.ops import multi_scale_deform_attn as mmcv_layer

    class Operator:
        @staticmethod
        def apply(*args):
            raise RuntimeError('ms_deform_attn_impl_forward: implementation for device cpu not found')

    deformable_attention._mmcv_runs.cache_clear()
    monkeypatch.setattr(mmcv_layer, 'MultiScaleDeformableAttnFunction', Operator)
    with pytest.warns(UserWarning, match='does not run on cpu .*not found.*grid_sample serves, with the same results'):
        assert not deformable_attention._mmcv_runs(torch.device('cpu'))
    assert not deformable_attention._mmcv_runs(torch.device('cpu'))  # tried once
    deformable_attention._mmcv_runs.cache_clear()


@pytest.mark.parametrize(('heads', 'ratio'), [(3, 1.0), (0, 1.0), (16, 0.5)])
def test_bad_heads(heads, ratio):
    with pytest.raises(ValueError, match=rf'num_heads={heads} must divide the \d+ channels of the values'):
        DeformableAttention(16, num_heads=heads, num_levels=1, value_ratio=ratio)
