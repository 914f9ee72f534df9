"""Inference in fewer bits: bfloat16, dynamic 8-bit integers, and files of 8-bit weights."""

import pytest
import torch
from families import FAMILY_CASES
from family_cases.base import randomised
from torch import nn

import mmvim
from mmvim import checkpoints
from mmvim.checkpoints.files.int8 import LEAST, is_packed
from mmvim.deploy import DeployError, compute_in_bf16, quantize_dynamic
from mmvim.models.layers.plain_layers import InferenceLinear

QUANTISED = 'torch.ao.nn.quantized.dynamic'


def outputs(model, x):
    with torch.no_grad():
        y = model(x)
    return y if isinstance(y, tuple) else (y,)


def error(model, reference, x):
    """The largest root mean square of a difference over the standard deviation."""
    pairs = zip(outputs(model, x), outputs(reference, x), strict=True)
    return max(float((y - wanted).square().mean().sqrt() / wanted.std()) for y, wanted in pairs)


def model_of(family, **changes):
    """Of the family's usual initial values: with ones of 0.2 everywhere a few bits change everything."""
    return FAMILY_CASES[family].build_tiny(**changes).eval()


@pytest.mark.parametrize('family', FAMILY_CASES)
def test_bfloat16_and_integers(family):
    model, x = model_of(family), torch.randn(1, 3, 64, 96)
    rounded, small = compute_in_bf16(model_of(family)), quantize_dynamic(model)
    assert all(y.dtype == torch.float32 for y in outputs(rounded, x))
    assert 0 < error(rounded, model, x) < 0.03
    kinds = {name: type(m).__module__.startswith(QUANTISED) for name, m in small.named_modules()}
    assert any(kinds.values()) and not any(v for name, v in kinds.items() if name.endswith(('x_proj', 'dt_proj')))
    assert not any(type(m).__module__.startswith(QUANTISED) for m in model.modules())  # a copy
    assert 0 < error(small, model, x) < 0.1
    fast = mmvim.optimize_for_inference(small)
    assert error(fast, small, x) < 0.01  # inputs that differ in a last digit may round to another level
    assert sum(type(m).__module__.startswith(QUANTISED) for m in fast.modules()) == sum(kinds.values())


def test_what_is_not_quantised():
    model = model_of('vim')
    model.layers[0].mixer.in_proj.register_forward_hook(lambda module, inputs, output: output)
    small = quantize_dynamic(model, skip=('out_proj',))
    first, second = (layer.mixer for layer in small.layers)
    assert type(first.in_proj) is nn.Linear and type(second.in_proj).__module__.startswith(QUANTISED)
    assert type(second.out_proj) is nn.Linear and type(second.x_proj).__module__.startswith(QUANTISED)
    with pytest.raises(DeployError, match='has no plain linear layer beside in_proj, out_proj; quantise before'):
        quantize_dynamic(mmvim.optimize_for_inference(model_of('vim')), skip=('in_proj', 'out_proj'))
    assert type(mmvim.optimize_for_inference(small).layers[1].mixer.out_proj) is InferenceLinear


def test_no_kernels(monkeypatch):
    class Quantized:
        engine = 'none'

    monkeypatch.setattr(torch.backends, 'quantized', Quantized)
    with pytest.raises(DeployError, match='no kernels of 8-bit integers; compute in float32 or bfloat16'):
        quantize_dynamic(model_of('vim'))


@pytest.mark.parametrize('config', ['demo/upernet_vim_demo.py', 'demo/upernet_mambavision_demo.py'])
def test_segmentors_hand_on_float32(load, config):
    from mmvim.cli import build_model

    torch.manual_seed(0)
    model = build_model(load(config)).eval()
    x, seen = torch.randn(1, 3, 64, 96), []
    model.decode_head.conv_seg.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    meta = [{'ori_shape': (64, 96), 'img_shape': (64, 96), 'pad_shape': (64, 96), 'padding_size': [0] * 4}]
    with torch.no_grad():
        wanted = model.encode_decode(x, meta)
        found = compute_in_bf16(model).encode_decode(x, meta)
    assert found.dtype == wanted.dtype == torch.float32 and seen == [torch.float32, torch.bfloat16]
    assert 0 < (found - wanted).square().mean().sqrt() < 0.05 * wanted.std()


def test_other_models_are_in_bfloat16_up_to_their_features():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def extract_feat(self, x):
            return [self.backbone(x), {'kept': 'as it is'}]

        def forward(self, x):
            features = self.extract_feat(x)[0]
            return self.head(features), features

    model = compute_in_bf16(nn.ModuleDict({'inner': Detector()}))['inner']
    scores, features = model(torch.randn(3, 4))
    assert scores.dtype == features.dtype == torch.float32
    assert torch.equal(features, features.bfloat16().float()) and not torch.equal(scores, scores.bfloat16().float())


@pytest.mark.parametrize('family', FAMILY_CASES)
def test_eight_bit_weights(family, tmp_path):
    """As small as it should be, loaded where any file is, and each weight within half a level."""
    arch = FAMILY_CASES[family].file_arch
    model = randomised(FAMILY_CASES[family].backbone(arch)).eval()
    weights = model.state_dict()
    checkpoints.save_file(checkpoints.pack(weights), tmp_path / 'small.pth')
    torch.save({'state_dict': weights}, tmp_path / 'large.pth')
    container = checkpoints.load_file(tmp_path / 'small.pth')
    read, packed = container['state_dict'], [name for name, value in weights.items() if is_packed(name, value)]
    assert list(read) == list(weights) and packed
    for name, value in weights.items():
        assert read[name].dtype == value.dtype
        if name in packed:
            level = value.flatten(1).abs().amax(1) / 127
            worst = (read[name] - value).flatten(1).abs().amax(1)
            assert (worst <= 0.501 * level).all() and worst.max() > 0
        else:
            assert torch.equal(read[name], value)
    spared = sum(3 * weights[name].numel() for name in packed)
    assert (tmp_path / 'large.pth').stat().st_size - (
        tmp_path / 'small.pth'
    ).stat().st_size > 0.6 * spared  # names take some, too
    other = FAMILY_CASES[family].backbone(arch, init_cfg={'type': 'Pretrained', 'checkpoint': f'{tmp_path}/small.pth'})
    other.init_weights()
    assert all(torch.equal(value, read[name]) for name, value in other.state_dict().items())


def test_odd_weights():
    rows = torch.zeros(2, LEAST)
    rows[1, 0] = -3.0
    read = checkpoints.files.int8.unpack(checkpoints.pack({'a.weight': rows}), 'a.pth')['state_dict']['a.weight']
    assert torch.equal(read, rows)
    with pytest.raises(checkpoints.CheckpointError, match=r'a\.weight has NaN or infinity; take finite ones'):
        checkpoints.pack({'a.weight': torch.full((2, LEAST), float('nan'))})
    packed = checkpoints.pack({'a.weight': rows})
    for change, words in (({'scales': {}}, 'no scales that fit a.weight'), ({'weights': None}, 'lacks the scales or')):
        with pytest.raises(checkpoints.CheckpointError, match=words):
            checkpoints.files.int8.unpack({**packed, **change}, 'a.pth')
