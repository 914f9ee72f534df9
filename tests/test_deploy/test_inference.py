"""Copies for inference: equal, not trained, not loaded; and ordinary models, which keep nothing of their weights."""

import copy
import pickle

import pytest
import torch
from families import FAMILY_CASES, one_of_each
from family_cases.base import randomised
from mmcv.cnn import ConvModule
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from torch import nn
from torch.func import functional_call

import mmvim
from mmvim.deploy.inference import is_optimized
from mmvim.models import VimMixer
from mmvim.models.layers.derived_weights import DerivedWeights
from mmvim.models.layers.plain_layers import InferenceLinear
from mmvim.ops.backends import ENV
from mmvim.ops.linear import linear, onednn_serves


def outputs(model, x):
    with torch.no_grad():
        y = model(x)
    return y if isinstance(y, tuple) else (y,)


def assert_equal(model, reference, x, tolerance=1e-5):
    for y, wanted in zip(outputs(model, x), outputs(reference, x), strict=True):
        assert y.shape == wanted.shape and y.stride() == wanted.stride()
        assert (y - wanted).abs().max() <= tolerance * wanted.std()


def batch_norms(model):
    return [name for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.fixture
def pieces(monkeypatch):
    """Let Vim's mixers work through the tokens of small pictures piece by piece."""
    monkeypatch.setattr(VimMixer, 'chunk', 5)


@pytest.mark.parametrize(('family', 'variant'), one_of_each('variants'))
def test_equal_copy(family, variant, pieces):
    model = randomised(FAMILY_CASES[family].build(variant))  # in training mode
    before = copy.deepcopy(model.state_dict())
    made = mmvim.optimize_for_inference(model)
    assert type(made) is type(model) and model.training and not any(m.training for m in made.modules())
    assert not any(p.requires_grad for p in made.parameters())
    x = torch.randn(2, 3, 64, 96)
    assert_equal(made, model.eval(), x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # left as it was
    # All are folded but that behind the last stage, which follows no convolution.
    assert batch_norms(made) in ([], ['norm'])
    assert all(m._kept for m in made.modules() if isinstance(m, DerivedWeights))
    # The control: the comparison sees a scan that is slightly wrong.
    FAMILY_CASES[family].spoil(model)
    with pytest.raises(AssertionError):
        assert_equal(made, model, x)


@pytest.mark.parametrize('family', ['vim', 'mambavision'])
def test_moved_copies_are_equal_too(family):
    model = randomised(FAMILY_CASES[family].build_tiny()).eval()
    made = mmvim.optimize_for_inference(model)
    x = torch.randn(1, 3, 64, 64)
    assert_equal(copy.deepcopy(made), model, x)
    assert_equal(pickle.loads(pickle.dumps(made)), model, x)
    assert outputs(copy.deepcopy(made).to('meta'), x.to('meta'))[0].is_meta
    wide = made.double()
    assert_equal(wide, model.double(), x.double())


def test_whole_segmentors(load):
    from mmvim.cli import build_model

    model = build_model(load('demo/upernet_mambavision_demo.py')).eval()
    randomised(model, scale=0.1)
    made = mmvim.optimize_for_inference(model)
    found = [name for name in batch_norms(made) if not name.startswith('auxiliary')]
    assert found == [] and batch_norms(model)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        y, wanted = made(x, mode='tensor'), model(x, mode='tensor')
    assert (y - wanted).abs().max() <= 1e-5 * wanted.std()


@pytest.mark.parametrize('family', FAMILY_CASES)
def test_a_copy_is_neither_trained_nor_loaded(family):
    made = mmvim.optimize_for_inference(FAMILY_CASES[family].build_tiny())
    assert is_optimized(made) and made.eval() is made and made.train(False) is made
    part = next(made.children())
    for module in (made, part):
        with pytest.raises(RuntimeError, match='cannot be trained; go back to the model that the copy was made of'):
            module.train()
        weights = {name: value + 1 for name, value in module.state_dict().items()}
        with pytest.raises(RuntimeError, match='whose weights are folded and cannot be loaded; go back'):
            module.load_state_dict(weights)
    from mmengine.runner.checkpoint import load_state_dict

    with pytest.raises(RuntimeError, match='cannot be loaded'):
        load_state_dict(made, FAMILY_CASES[family].build_tiny().state_dict())
    with pytest.raises(ValueError, match='is a copy for inference already'):
        mmvim.optimize_for_inference(made)


def test_other_things_are_refused():
    with pytest.raises(TypeError, match=r'must be a torch\.nn\.Module, got dict'):
        mmvim.optimize_for_inference({})
    with pytest.raises(AttributeError, match="has no attribute 'optimise_for_inference'"):
        mmvim.optimise_for_inference  # noqa: B018


def conv_and_norm(norm=None, conv=None):
    return [conv or nn.Conv2d(3, 4, 3), norm or nn.BatchNorm2d(4)]


class Calls(nn.Module):
    """A pair whose forward pass uses what lies between."""

    def __init__(self):
        super().__init__()
        self.pair = nn.Sequential(*conv_and_norm())

    def forward(self, x):
        return self.pair(x)


FOLDED = {
    'convolution': nn.Sequential(*conv_and_norm(), nn.ReLU()),
    'groups': nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6)),
    'transposed': nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2), nn.BatchNorm2d(4)),
    'mmcv': ConvModule(3, 4, 3, norm_cfg={'type': 'BN'}),
    'nested': Calls(),
}
KEPT = {
    'no statistics': nn.Sequential(*conv_and_norm(nn.BatchNorm2d(4, track_running_stats=False))),
    'no weights': nn.Sequential(*conv_and_norm(nn.BatchNorm2d(4, affine=False))),
    'not after it': nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
    'norm first': ConvModule(4, 4, 3, norm_cfg={'type': 'BN'}, order=('norm', 'conv', 'act')),
}


@pytest.mark.parametrize('case', FOLDED)
def test_what_is_folded(case):
    model = randomised(copy.deepcopy(FOLDED[case])).eval()
    made = mmvim.optimize_for_inference(model)
    assert batch_norms(model) and not batch_norms(made)
    assert_equal(made, model, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize('case', KEPT)
def test_what_is_not_folded(case):
    model = randomised(copy.deepcopy(KEPT[case])).eval()
    made = mmvim.optimize_for_inference(model)
    assert batch_norms(model) == batch_norms(made)
    assert_equal(made, model, torch.randn(2, 4 if case == 'norm first' else 3, 8, 8))


@pytest.mark.parametrize('what', ['hook', 'shared', 'parametrised'])
def test_what_somebody_else_has_a_hand_in_is_not_folded(what):
    conv, norm = conv_and_norm()
    model = nn.ModuleList([nn.Sequential(conv, norm)])
    if what == 'hook':
        conv.register_forward_hook(lambda module, inputs, output: output + 1)
    elif what == 'shared':
        model.append(nn.Sequential(conv, nn.BatchNorm2d(4)))
    else:
        nn.utils.parametrizations.weight_norm(conv)
    randomised(model).eval()
    made = mmvim.optimize_for_inference(model)
    assert batch_norms(made) == batch_norms(model)
    for one, reference in zip(made, model, strict=True):
        assert_equal(one, reference, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize('backend', ['torch', 'native'])
@pytest.mark.parametrize('name', ['in_proj', 'conv1d_b', 'x_proj', 'dt_proj_b', 'out_proj'])
def test_hooks_of_a_copy_count(name, backend, pieces, monkeypatch):
    """Whatever was kept: a layer that somebody observes later is called, once."""
    monkeypatch.setenv(ENV, backend)
    model = randomised(VimMixer(8, d_state=4)).eval()
    made, seen = mmvim.optimize_for_inference(model), []
    x = torch.randn(2, 30, 8)
    made.get_submodule(name).register_forward_hook(lambda module, inputs, output: seen.append(name))
    assert_equal(made, model, x)
    assert seen == [name]
    for one in (made, model):
        one.get_submodule(name).register_forward_hook(lambda module, inputs, output: 1.5 * output)
    assert_equal(made, model, x)


@pytest.mark.parametrize('size', [1, 2, 3, 7, 29, 30, 64])
@pytest.mark.parametrize('average', [True, False])
def test_any_size_of_a_piece(size, average, monkeypatch):
    from mmvim.models.layers.vim_chunks import mix_in_chunks

    model = randomised(VimMixer(8, d_state=4, d_conv=4, if_divide_out=average)).eval()
    x = torch.randn(2, 30, 8)
    with torch.no_grad():
        mixed = mix_in_chunks(x, model.chunk_weights(model.derived()), size) / (2 if average else 1)
        wanted = model(x)
    assert (mixed - wanted).abs().max() <= 1e-5 * wanted.std()


def test_pieces_are_what_a_copy_takes(pieces, monkeypatch):
    """Only without gradients, and not where something counts or traces operators."""
    from torch.utils.flop_counter import FlopCounterMode

    from mmvim.models.layers import vim_mixer

    taken = []
    own = vim_mixer.mix_in_chunks
    monkeypatch.setattr(vim_mixer, 'mix_in_chunks', lambda *arguments: taken.append(1) or own(*arguments))
    model = VimMixer(8, d_state=4).eval()
    made, x = mmvim.optimize_for_inference(model), torch.randn(1, 30, 8)
    assert_equal(made, model, x)
    assert len(taken) == 1
    assert_equal(made, model, x[:, :10])  # two pieces are not worth it
    assert_equal(mmvim.optimize_for_inference(model, in_chunks=False), model, x)
    made(x)
    counts = []
    for one in (made, model):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            one(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] and len(taken) == 1


def test_bfloat16_by_autocast(pieces):
    model = randomised(FAMILY_CASES['vim'].build_tiny(img_size=64)).eval()
    made, x = mmvim.optimize_for_inference(model), torch.randn(1, 3, 128, 128)
    with torch.autocast('cpu', torch.bfloat16):
        rounded, wanted = outputs(made, x), outputs(model, x)
    for y, reference in zip(rounded, wanted, strict=True):
        assert y.dtype == reference.dtype and (y - reference).float().abs().max() < 0.05 * reference.float().std()


@pytest.mark.parametrize('bias', [True, False])
def test_linear_is_pytorchs(bias):
    x, weight, b = torch.randn(3, 7, 12)[:, 1:, :9], torch.randn(5, 9), torch.randn(5) if bias else None
    wanted = nn.functional.linear(x, weight, b)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, b), wanted, rtol=1e-5, atol=1e-5)
        for y in (linear(x.double(), weight.double()), linear(x[:0], weight, b), linear(x[0, 0], weight, b)):
            assert y.shape[-1] == 5
    weight.requires_grad_()
    linear(x, weight, b).sum().backward()  # differentiable where that is asked for
    assert weight.grad is not None
    assert isinstance(onednn_serves(), bool)


def each_model():
    return pytest.mark.parametrize('family', FAMILY_CASES)


@each_model()
def test_an_ordinary_model_follows_the_averaging_hook(family):
    """MMEngine's hook writes through ``.data.copy_``, of which no version counter tells."""
    model = randomised(FAMILY_CASES[family].build_tiny()).eval()
    x = torch.randn(1, 3, 64, 64)
    hook, averaged = EMAHook(), ExponentialMovingAverage(model)
    hook.src_model, hook.ema_model = model, averaged
    other = randomised(FAMILY_CASES[family].build_tiny(), seed=1).eval()
    other.load_state_dict(dict(model.named_buffers()), strict=False)  # which the hook leaves alone
    averaged.module.load_state_dict(other.state_dict())
    before, wanted = outputs(model, x), outputs(other, x)
    hook._swap_ema_parameters()
    for y, a, b in zip(outputs(model, x), before, wanted, strict=True):
        assert not torch.equal(y, a)
        torch.testing.assert_close(y, b)
    hook._swap_ema_parameters()
    for y, a in zip(outputs(model, x), before, strict=True):
        torch.testing.assert_close(y, a)


@each_model()
@pytest.mark.parametrize('way', ['data', 'functional_call'])
def test_an_ordinary_model_follows_its_weights(family, way):
    model = randomised(FAMILY_CASES[family].build_tiny()).eval()
    other = randomised(FAMILY_CASES[family].build_tiny(), seed=1).eval()
    x = torch.randn(1, 3, 64, 64)
    before, wanted, weights = outputs(model, x), outputs(other, x), other.state_dict()
    if way == 'data':
        for name, value in model.state_dict(keep_vars=True).items():
            value.data.copy_(weights[name])
        found = outputs(model, x)
    else:
        with torch.no_grad():
            found = functional_call(model, weights, (x,))
    for y, a, b in zip(found, before, wanted, strict=True):
        assert not torch.equal(y, a)
        torch.testing.assert_close(y, b)


@each_model()
def test_an_ordinary_model_keeps_no_tensor_of_a_pass(family):
    """Every parameter and buffer, and every other tensor within reach of a module, is there before the first pass."""

    def tensors(model):
        found = {}
        for name, module in model.named_modules():
            for key, value in module.__dict__.items():
                if key in ('_modules', '_parameters', '_buffers'):
                    value = {k: v for k, v in value.items() if isinstance(v, torch.Tensor)}
                    found |= {f'{name}.{k}': v.data_ptr() for k, v in value.items()}
                elif isinstance(value, torch.Tensor):
                    found[f'{name}.{key}'] = value.data_ptr()
        return found

    model = FAMILY_CASES[family].build_tiny().eval()
    before = tensors(model)
    outputs(model, torch.randn(1, 3, 64, 64))
    assert tensors(model) == before


def test_copies_compute_linear_layers_the_fast_way():
    made = mmvim.optimize_for_inference(FAMILY_CASES['vrwkv'].build_tiny())
    assert any(type(m) is InferenceLinear for m in made.modules())
    assert not any(type(m) is nn.Linear for m in made.modules())
