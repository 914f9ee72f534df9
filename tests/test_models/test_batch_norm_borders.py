"""Maps of a single picture beside a batch norm: a fault of PyTorch makes gradients wrong on CPUs without a word.

``tokens.transpose(1, 2).reshape(1, C, H, W)`` has strides (C, 1, W * C, C): the batch axis of size 1 has the stride of
the channels, and the map passes for channels-last. If exactly one of a batch norm's input and the gradient of its
output is such a map, the gradients that it computes are wrong by as much as they are large. Whatever mmvim hands out
must not be such a map, in either direction.
"""

import pytest
import torch
from families import FAMILY_CASES, each
from test_backbones import build, image
from torch import nn

from mmvim.models import ChannelMix, LocalVimMixer, SpatialMix
from mmvim.registry import MODELS

# PyTorch versions that are known to have the fault
FAULTY = ('2.13.', '2.14.')

MAPS = {  # layers and necks from maps to maps, with the channels that they take
    'SelectiveScan2D': ({'type': 'mmvim.SelectiveScan2D', 'embed_dims': 8, 'd_state': 2}, 8),
    'SelectiveScan2D without a gate': (
        {'type': 'mmvim.SelectiveScan2D', 'embed_dims': 8, 'd_state': 2, 'gate': False, 'd_conv': 1},
        8,
    ),
    'PlainMambaMixer': ({'type': 'mmvim.PlainMambaMixer', 'embed_dims': 8, 'd_state': 2}, 8),
    'LocalScan2D': ({'type': 'mmvim.LocalScan2D', 'embed_dims': 8, 'd_state': 2}, 8),
    'MultiScaleScan2D': ({'type': 'mmvim.MultiScaleScan2D', 'embed_dims': 8}, 8),
    'ES2D': ({'type': 'mmvim.ES2D', 'embed_dims': 8, 'd_state': 2}, 8),
    'SimpleFPN': ({'type': 'mmvim.SimpleFPN', 'in_channels': 8, 'out_channels': 4}, 8),
    'LN2d': ({'type': 'mmvim.LN2d', 'normalized_shape': 8}, 8),
}
TOKENS = {  # from tokens to tokens
    **{f'{cfg["type"]}-{i}': cfg for case in FAMILY_CASES.values() for i, cfg in enumerate(case.mixers)},
    'LocalVimMixer': {'type': 'mmvim.LocalVimMixer', 'embed_dims': 8, 'd_state': 2},
    'SpatialMix': {'type': 'mmvim.SpatialMix', 'embed_dims': 8},
    'ChannelMix': {'type': 'mmvim.ChannelMix', 'embed_dims': 8},
    'RMSNorm': {'type': 'mmvim.RMSNorm', 'normalized_shape': 8},
}

WITH_GRID = (LocalVimMixer, SpatialMix, ChannelMix)  # mixers of tokens that need to know the rows and columns


class Contiguous(torch.autograd.Function):
    """Copy a map and its gradient into the plain layout, batch axis included."""

    @staticmethod
    def forward(ctx, x):
        return x.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx, grad):
        return torch.empty(grad.shape, dtype=grad.dtype).copy_(grad)


def make_borders_contiguous(model):
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d)):
            module.register_forward_pre_hook(lambda module, inputs: (Contiguous.apply(inputs[0]),))
            module.register_forward_hook(lambda module, inputs, output: Contiguous.apply(output))


class Between(nn.Module):
    """A module with a batch norm before it and one behind each of its outputs."""

    def __init__(self, module, channels):
        super().__init__()
        self.before, self.module = nn.BatchNorm2d(channels), module
        self.behind = nn.ModuleList()

    def forward(self, x):
        outputs = self.module(self.before(x))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        if not self.behind:
            self.behind.extend(nn.BatchNorm2d(y.shape[1]).to(y.dtype) for y in outputs)
        return [norm(y) for norm, y in zip(self.behind, outputs, strict=True)]


class OnTokens(nn.Module):
    """A mixer of tokens between a map and a map that its user keeps contiguous, as the docs say."""

    def __init__(self, mixer):
        super().__init__()
        self.mixer = mixer

    def forward(self, x):
        grid = (tuple(x.shape[2:]),) if isinstance(self.mixer, WITH_GRID) else ()
        tokens = self.mixer(x.flatten(2).transpose(1, 2), *grid)  # (B, C, H, W) -> (B, H * W, C)
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:]).contiguous()  # (B, H * W, C) -> (B, C, H, W)


class Careless(OnTokens):
    """The same without the copy."""

    def forward(self, x):
        tokens = self.mixer(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(x.shape)


def gradients(make, x, mode, contiguous):
    torch.manual_seed(0)
    model = make().double()
    model(x)  # makes the norms behind it
    model.train(mode == 'train')
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    if contiguous:
        make_borders_contiguous(model)
    x = x.clone().requires_grad_()
    weights = torch.Generator().manual_seed(1)
    loss = sum((y * torch.randn(y.shape, generator=weights, dtype=y.dtype)).sum() for y in model(x))
    loss.backward()
    return {'the input': x.grad, **{name: p.grad for name, p in model.named_parameters() if p.grad is not None}}


def worst_error(make, x, mode):
    """The largest error of a gradient, relative to its norm, or to the largest where it is zero but for rounding."""
    got, wanted = (gradients(make, x, mode, contiguous) for contiguous in (False, True))
    assert got.keys() == wanted.keys()
    least = 1e-3 * max(grad.norm() for grad in wanted.values())  # such as a bias in front of a batch norm
    return max(((got[n] - wanted[n]).norm() / wanted[n].norm().clamp(min=least)).item() for n in got)


def cases():
    for name in each('variants'):
        yield '-'.join(name), lambda name=name: Between(build(*name, drop_path_rate=0.0), 3), (1, 3, 64, 48)
    for name, (cfg, channels) in MAPS.items():
        yield name, lambda cfg=cfg, channels=channels: Between(MODELS.build(dict(cfg)), channels), (1, channels, 6, 10)
    for name, cfg in TOKENS.items():
        width = cfg.get('embed_dims', 8)
        yield name, lambda cfg=cfg, n=width: Between(OnTokens(MODELS.build(dict(cfg))), n), (1, width, 6, 10)


CASES = {name: (make, shape) for name, make, shape in cases()}


@pytest.mark.parametrize('mode', ['train', 'eval'])
@pytest.mark.parametrize('name', CASES)
def test_gradients_beside_a_batch_norm(name, mode):
    make, shape = CASES[name]
    assert worst_error(make, image(*shape).double(), mode) < 1e-9


def test_every_layer_and_neck_is_covered():
    kinds = ('.layers.', '.necks.')
    registered = {name for name, cls in MODELS.module_dict.items() if any(kind in cls.__module__ for kind in kinds)}
    assert registered == {cfg['type'].split('.')[1] for cfg in (*(cfg for cfg, _ in MAPS.values()), *TOKENS.values())}


@pytest.mark.parametrize('mode', ['train', 'eval'])
@pytest.mark.skipif(not torch.__version__.startswith(FAULTY), reason='not known whether this PyTorch has the fault')
def test_the_fault_is_seen(mode):
    """The control: the careless map gives wrong gradients, so the tests above would see one."""
    error = worst_error(lambda: Between(Careless(nn.Linear(8, 8)), 8), image(1, 8, 6, 10).double(), mode)
    assert error > 0.1
