"""What holds for every backbone that mmvim registers, on small versions of them."""

from importlib import import_module

import pytest
import torch
from checkout import need
from families import ADAPTERS, FAMILY_CASES, each, one_of_each
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from torch.utils._python_dispatch import TorchDispatchMode

import mmvim.models  # noqa: F401  (fills the registry)
from mmvim.checkpoints.families import FAMILIES
from mmvim.models.layers.ssm_params import init_dt_bias
from mmvim.registry import FUNCTIONS, MODELS

MIXERS = {cfg['type'] for case in FAMILY_CASES.values() for cfg in case.mixers}
# Every family in every shape it comes in.
VARIANTS = pytest.mark.parametrize(('family', 'variant'), each('variants'))
FIRST_VARIANTS = pytest.mark.parametrize(('family', 'variant'), one_of_each('variants'))  # for what takes seconds


def build(family, variant, **changes):
    return FAMILY_CASES[family].build(variant, **changes)


def image(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_every_registered_backbone_is_covered():
    backbones = {name for name, cls in MODELS.module_dict.items() if '.backbones.' in cls.__module__}
    assert {case.backbone.__name__ for case in FAMILY_CASES.values()} == backbones - set(ADAPTERS)
    assert all(name == case.name for name, case in FAMILY_CASES.items())
    assert all(FAMILY_CASES[name].backbone is reader.backbone for name, reader in FAMILIES.items())


def test_a_backbone_that_is_not_covered_is_seen(monkeypatch):
    (_, *others) = FAMILY_CASES.items()
    monkeypatch.setitem(globals(), 'FAMILY_CASES', dict(others))
    with pytest.raises(AssertionError):
        test_every_registered_backbone_is_covered()


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet'])
@pytest.mark.parametrize('family', FAMILY_CASES)
def test_builds_under_a_foreign_default_scope(scope, family):
    case = FAMILY_CASES[family]
    need(scope)
    registry = import_module(f'{scope}.registry').MODELS
    with DefaultScope.overwrite_default_scope(scope):
        assert type(registry.build(case.config(next(iter(case.variants))))) is case.backbone


@pytest.mark.parametrize('name', sorted({*MIXERS, 'mmvim.SelectiveScan2D', 'mmvim.RMSNorm', 'mmvim.LN2d'}))
def test_layers_are_registered(name):
    own = MODELS.get(name.removeprefix('mmvim.'))
    assert own is not None and ROOT_MODELS.get(name) is own


def test_the_scan_is_registered():
    from mmvim.ops import selective_scan, selective_scan_paths

    assert FUNCTIONS.get('mmvim.selective_scan') is selective_scan
    assert FUNCTIONS.get('mmvim.selective_scan_paths') is selective_scan_paths


@VARIANTS
@pytest.mark.parametrize(('height', 'width'), [(64, 64), (50, 83)])
def test_forward_at_any_size(family, variant, height, width):
    expected = FAMILY_CASES[family].variants[variant]
    model = build(family, variant).eval()
    with torch.no_grad():
        outputs = model(image(2, 3, height, width))
    assert len(outputs) == len(expected.strides)
    for output, stride in zip(outputs, expected.strides, strict=True):
        assert output.shape[0] == 2 and output.is_contiguous() and torch.isfinite(output).all()
        assert output.shape[2:] == (expected.cells(height, stride), expected.cells(width, stride))


@VARIANTS
def test_every_parameter_gets_a_gradient(family, variant):
    model = build(family, variant).train()
    sum((output * image(*output.shape)).sum() for output in model(image(2, 3, 64, 64))).backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


class Scans(TorchDispatchMode):
    """Notes the dtypes of the tensors that each scan takes, by name, and of the last state if it returns one."""

    def __init__(self, operator):
        super().__init__()
        self.operator, self.seen = operator, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.name() == self.operator:
            names = (argument.name for argument in func._schema.arguments)
            taken = {name: x.dtype for name, x in zip(names, args, strict=False) if isinstance(x, torch.Tensor)}
            states = {'last_state': result[1].dtype} if isinstance(result, tuple) else {}
            self.seen.append({**taken, **states})
        return result


@VARIANTS
def test_autocast_bfloat16_has_no_nan_and_keeps_float32_states(family, variant):
    model = build(family, variant).train()
    scan = FAMILY_CASES[family].scan
    with torch.autocast('cpu', dtype=torch.bfloat16), Scans(scan.operator) as scans:
        outputs = model(image(2, 3, 64, 64) * 10)
    assert all(torch.isfinite(output.float()).all() for output in outputs)
    assert scans.seen
    for dtypes in scans.seen:
        assert dtypes[scan.given] == torch.bfloat16, 'autocast must reach the scan, or nothing is tested'
        kept = {name: dtypes[name] for name in scan.kept if name in dtypes}
        assert set(kept.values()) == {torch.float32}, kept
    sum(output.float().square().sum() for output in outputs).backward()
    for key, p in model.named_parameters():
        assert p.grad is None or torch.isfinite(p.grad).all(), key


@VARIANTS
def test_batch_elements_do_not_mix(family, variant):
    model = build(family, variant).eval()
    x = image(3, 3, 48, 64)
    with torch.no_grad():
        for together, alone in zip(model(x), model(x[1:2]), strict=True):
            torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@VARIANTS
def test_checkpointing_changes_nothing(family, variant):
    grads = []
    for with_cp in (False, True):
        model = build(family, variant, with_cp=with_cp, drop_path_rate=0.0).train()
        sum(output.square().sum() for output in model(image(2, 3, 64, 64))).backward()
        grads.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for key in grads[0]:
        torch.testing.assert_close(grads[0][key], grads[1][key], rtol=1e-4, atol=1e-4)


@VARIANTS
@pytest.mark.parametrize('frozen_stages', [-1, 0, 2])
def test_frozen_stages_stay_frozen_in_training(family, variant, frozen_stages):
    model = build(family, variant, frozen_stages=frozen_stages).train()
    stages = FAMILY_CASES[family].stages(model)
    frozen = [model.patch_embed] * (frozen_stages >= 0) + stages[: max(frozen_stages, 0)]
    free = stages[max(frozen_stages, 0) :]
    assert not any(module.training or any(p.requires_grad for p in module.parameters()) for module in frozen)
    assert all(module.training and all(p.requires_grad for p in module.parameters()) for module in free)
    sum(output.sum() for output in model(image(1, 3, 64, 64))).backward()


@VARIANTS
def test_drop_path_rate_reaches_the_blocks(family, variant):
    from mmcv.cnn.bricks import DropPath

    model = build(family, variant, drop_path_rate=0.4)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates == sorted(rates) and rates[0] == 0 and rates[-1] == pytest.approx(0.4)
    model.train()
    with torch.no_grad():
        first, second = (model(image(4, 3, 64, 64))[-1] for _ in range(2))
    assert not torch.equal(first, second)


class Copies(TorchDispatchMode):
    """Notes what reorders numbers, where it makes more than the kernel of a convolution has."""

    NAMES = (
        'index_select',
        'index',
        'gather',
        'take',
        'flip',
        'roll',
        'index_copy',
        'index_add',
        'index_put',
        'scatter',
    )

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip('_')
        if name in self.NAMES and result.is_floating_point() and result.numel() > 1000:
            self.seen.add(name)
        return result


@VARIANTS
def test_no_permuted_copy_is_made(family, variant):
    """Scans read and write a map through their paths, forward and backward.

    LocalVim's causal convolutions run along its paths too, and need their input in that order.
    """
    model = build(family, variant)
    with Copies() as copies:
        outputs = model(image(2, 3, 96, 96))  # sides that every step between the cells of a grid divides
        sum(output.sum() for output in outputs).backward()
    assert copies.seen == ({'index_select', 'index_add'} if family == 'localvim' else set())


@VARIANTS
def test_unknown_and_bad_arguments_raise(family, variant):
    with pytest.raises(TypeError, match='img_sizee'):
        build(family, variant, img_sizee=64)
    with pytest.raises(ValueError, match='out_indices'):
        build(family, variant, out_indices=(0, 99))
    with pytest.raises(ValueError, match='drop_path_rate'):
        build(family, variant, drop_path_rate=1.5)
    with pytest.raises(ValueError, match='frozen_stages'):
        build(family, variant, frozen_stages=99)
    with pytest.raises(ValueError, match="arch='huge' is not one of"):
        build(family, variant, arch='huge')
    with pytest.raises(ValueError, match=r"missing \['.*unknown \['colour'\]"):
        build(family, variant, arch={'colour': 3})


@VARIANTS
def test_layer_depth_covers_every_parameter_in_order(family, variant):
    model = build(family, variant)
    depths = {key: model.get_layer_depth('backbone.' + key, 'backbone.') for key, _ in model.named_parameters()}
    counts = {total for _, total in depths.values()}
    assert len(counts) == 1 and all(0 <= depth < total for depth, total in depths.values())
    blocks = len(FAMILY_CASES[family].blocks(model))
    assert counts == {blocks + 2}
    assert set(range(blocks + 1)) <= {depth for depth, _ in depths.values()}
    assert model.get_layer_depth('decode_head.weight', 'backbone.')[0] == blocks + 1


@VARIANTS
def test_states_carry_no_weight_decay_mark(family, variant):
    parameters = build(family, variant).named_parameters()
    marked = {key.split('.')[-1] for key, p in parameters if getattr(p, '_no_weight_decay', False)}
    assert marked == FAMILY_CASES[family].undecayed


def test_dt_bias_is_log_uniform():
    step = torch.nn.functional.softplus(init_dt_bias(10_000))
    assert step.min() >= 1e-3 and step.max() <= 0.1 and 0.008 < step.log().mean().exp() < 0.012
