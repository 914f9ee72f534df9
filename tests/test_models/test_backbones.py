"""What holds for every backbone that mmvim registers, on small versions of them."""

import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS as MMSEG_MODELS

import mmvim.models  # noqa: F401  (fills the registry)
from mmvim.models.layers.ssm_params import init_dt_bias
from mmvim.registry import FUNCTIONS, MODELS

VIM = {'embed_dims': 32, 'depth': 4}
MAMBA_VISION = {'depths': (1, 1, 3, 2), 'dim': 16, 'in_dim': 8, 'num_heads': (1, 1, 2, 4), 'window_sizes': (8, 8, 4, 3)}

# Every family in every shape it comes in; `small` gives arguments, `strides` what the outputs must have.
SMALL = {
    'vim': ({'type': 'mmvim.Vim', 'arch': VIM, 'img_size': 64, 'out_indices': (1, 3)}, (16, 16)),
    'vim-dense-rope': (
        {
            'type': 'mmvim.Vim',
            'arch': VIM,
            'img_size': 64,
            'rope': True,
            'rope_residual': True,
            'feature': 'mixer',
            'out_indices': (0, 1, 2, 3),
        },
        (16, 16, 16, 16),
    ),
    'vim-overlap': (
        {'type': 'mmvim.Vim', 'arch': VIM, 'img_size': 64, 'patch_size': 16, 'stride': 8, 'final_norm': True},
        (8,),
    ),
    'vim-middle': (
        {'type': 'mmvim.Vim', 'arch': VIM, 'img_size': (64, 32), 'cls_token': 'middle', 'rope': True},
        (16,),
    ),
    'vim-head': ({'type': 'mmvim.Vim', 'arch': VIM, 'img_size': 64, 'cls_token': 'head', 'pos_embed': False}, (16,)),
    'vim-double': (
        {
            'type': 'mmvim.Vim',
            'arch': VIM,
            'img_size': 64,
            'cls_token': 'double',
            'if_divide_out': False,
            'norm_cfg': {'type': 'LN'},
            'residual_in_fp32': False,
        },
        (16,),
    ),
    'mamba_vision': ({'type': 'mmvim.MambaVision', 'arch': MAMBA_VISION}, (4, 8, 16, 32)),
    'mamba_vision-scaled': (
        {'type': 'mmvim.MambaVision', 'arch': MAMBA_VISION, 'layer_scale': 1e-1, 'final_norm': True, 'out_norm': False},
        (4, 8, 16, 32),
    ),
}
CASES = pytest.mark.parametrize('name', SMALL)


def build(name, **changes):
    torch.manual_seed(0)
    return MODELS.build({**copy.deepcopy(SMALL[name][0]), **changes})


def image(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_every_registered_backbone_is_covered():
    backbones = {name for name, cls in MODELS.module_dict.items() if '.backbones.' in cls.__module__}
    assert {cfg['type'].split('.')[1] for cfg, _ in SMALL.values()} == backbones


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet'])
@pytest.mark.parametrize('kind', ['Vim', 'MambaVision'])
def test_builds_under_a_foreign_default_scope(scope, kind):
    cfg = next(cfg for cfg, _ in SMALL.values() if cfg['type'].endswith(kind))
    registry = MMSEG_MODELS
    if scope == 'mmdet':
        registry = pytest.importorskip('mmdet.registry', reason='mmdet is not installed').MODELS
    with DefaultScope.overwrite_default_scope(scope):
        assert type(registry.build(copy.deepcopy(cfg))).__name__ == kind


@pytest.mark.parametrize('name', ['VimMixer', 'MambaVisionMixer', 'SelectiveScan2D', 'RMSNorm', 'LN2d'])
def test_layers_are_registered(name):
    assert MODELS.get(name) is not None and MMSEG_MODELS.get(f'mmvim.{name}') is MODELS.get(name)


def test_the_scan_is_registered():
    from mmvim.ops import selective_scan, selective_scan_paths

    assert FUNCTIONS.get('mmvim.selective_scan') is selective_scan
    assert FUNCTIONS.get('mmvim.selective_scan_paths') is selective_scan_paths


@CASES
@pytest.mark.parametrize(('height', 'width'), [(64, 64), (50, 83)])
def test_forward_at_any_size(name, height, width):
    model = build(name).eval()
    with torch.no_grad():
        outputs = model(image(2, 3, height, width))
    assert len(outputs) == len(SMALL[name][1])
    for output, stride in zip(outputs, SMALL[name][1], strict=True):
        assert output.shape[0] == 2 and output.is_contiguous() and torch.isfinite(output).all()
        if name != 'vim-overlap':
            assert output.shape[2:] == (-(-height // stride), -(-width // stride))
    if name == 'vim-overlap':
        assert outputs[0].shape[2:] == (-(-(height - 16) // 8) + 1, -(-(width - 16) // 8) + 1)


@CASES
def test_every_parameter_gets_a_gradient(name):
    model = build(name).train()
    sum((output * image(*output.shape)).sum() for output in model(image(2, 3, 64, 64))).backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@CASES
def test_autocast_bfloat16_has_no_nan_and_keeps_float32_states(name):
    model = build(name).train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outputs = model(image(2, 3, 64, 64) * 10)
    assert all(torch.isfinite(output.float()).all() for output in outputs)
    sum(output.float().square().sum() for output in outputs).backward()
    for key, p in model.named_parameters():
        assert p.grad is None or torch.isfinite(p.grad).all(), key
        assert p.dtype == torch.float32


@CASES
def test_batch_elements_do_not_mix(name):
    model = build(name).eval()
    x = image(3, 3, 48, 64)
    with torch.no_grad():
        for together, alone in zip(model(x), model(x[1:2]), strict=True):
            torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@CASES
def test_checkpointing_changes_nothing(name):
    grads = []
    for with_cp in (False, True):
        model = build(name, with_cp=with_cp, drop_path_rate=0.0).train()
        sum(output.square().sum() for output in model(image(2, 3, 64, 64))).backward()
        grads.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for key in grads[0]:
        torch.testing.assert_close(grads[0][key], grads[1][key], rtol=1e-4, atol=1e-4)


@CASES
@pytest.mark.parametrize('frozen_stages', [-1, 0, 2])
def test_frozen_stages_stay_frozen_in_training(name, frozen_stages):
    model = build(name, frozen_stages=frozen_stages).train()
    stages = model.layers if hasattr(model, 'layers') else model.levels
    frozen = [model.patch_embed] * (frozen_stages >= 0) + list(stages[: max(frozen_stages, 0)])
    free = stages[max(frozen_stages, 0) :]
    assert not any(module.training or any(p.requires_grad for p in module.parameters()) for module in frozen)
    assert all(module.training and all(p.requires_grad for p in module.parameters()) for module in free)
    sum(output.sum() for output in model(image(1, 3, 64, 64))).backward()


@CASES
def test_drop_path_rate_reaches_the_blocks(name):
    from mmcv.cnn.bricks import DropPath

    model = build(name, drop_path_rate=0.4)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates == sorted(rates) and rates[0] == 0 and rates[-1] == pytest.approx(0.4)
    model.train()
    with torch.no_grad():
        first, second = (model(image(4, 3, 64, 64))[-1] for _ in range(2))
    assert not torch.equal(first, second)


@CASES
def test_unknown_and_bad_arguments_raise(name):
    with pytest.raises(TypeError, match='img_sizee'):
        build(name, img_sizee=64)
    with pytest.raises(ValueError, match='out_indices'):
        build(name, out_indices=(0, 99))
    with pytest.raises(ValueError, match='drop_path_rate'):
        build(name, drop_path_rate=1.5)
    with pytest.raises(ValueError, match='frozen_stages'):
        build(name, frozen_stages=99)
    with pytest.raises(ValueError, match="arch='huge' is not one of"):
        build(name, arch='huge')
    with pytest.raises(ValueError, match=r"missing \['.*unknown \['colour'\]"):
        build(name, arch={'colour': 3})


@CASES
def test_layer_depth_covers_every_parameter_in_order(name):
    model = build(name)
    depths = {key: model.get_layer_depth('backbone.' + key, 'backbone.') for key, _ in model.named_parameters()}
    counts = {total for _, total in depths.values()}
    assert len(counts) == 1 and all(0 <= depth < total for depth, total in depths.values())
    blocks = sum(len(level.blocks) for level in model.levels) if hasattr(model, 'levels') else model.depth
    assert counts == {blocks + 2}
    assert set(range(blocks + 1)) <= {depth for depth, _ in depths.values()}
    assert model.get_layer_depth('decode_head.weight', 'backbone.')[0] == blocks + 1


@CASES
def test_states_carry_no_weight_decay_mark(name):
    marked = {key.split('.')[-1] for key, p in build(name).named_parameters() if getattr(p, '_no_weight_decay', False)}
    assert marked == ({'A_log', 'A_b_log', 'D', 'D_b'} if name.startswith('vim') else {'A_log', 'D'})


def test_dt_bias_is_log_uniform():
    step = torch.nn.functional.softplus(init_dt_bias(10_000))
    assert step.min() >= 1e-3 and step.max() <= 0.1 and 0.008 < step.log().mean().exp() < 0.012
