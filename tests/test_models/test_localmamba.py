"""LocalMamba's mixers against the same written out by hand: maps that are not square, windows that do not fit."""

import pytest
import torch
import torch.nn.functional as F

from mmvim.models import LocalScan2D, LocalVim, LocalVimMixer, LocalVMamba
from mmvim.models.layers.local_scan import direction_paths

DIRECTIONS = ('h_flip', 'v', 'w2', 'w7_flip', 'v_flip')
SIZES = [(3, 5), (7, 4), (1, 6), (5, 1), (1, 1), (8, 16), (10, 9)]


def cells(direction, H, W):
    """Visited positions, None where a window reaches beyond the map."""
    stem = direction.removesuffix('_flip')
    if stem == 'h':
        visited = [i * W + j for i in range(H) for j in range(W)]
    elif stem == 'v':
        visited = [i * W + j for j in range(W) for i in range(H)]
    else:
        w = int(stem[1:])
        visited = [
            i * W + j if i < H and j < W else None
            for top in range(0, H, w)
            for left in range(0, W, w)
            for i in range(top, top + w)
            for j in range(left, left + w)
        ]
    return visited[::-1] if stem != direction else visited


def scan_by_hand(steps, A, D, dt_bias, length):
    """Steps of (u, dt, B, C, position) one after the other; the output at the positions, (B, dim, length)."""
    out, h = None, 0
    for u, dt, b, c, position in steps:
        delta = F.softplus(dt + dt_bias)
        h = torch.exp(delta[..., None] * A) * h + (delta * u)[..., None] * b[:, None]
        out = u.new_zeros(*u.shape, length) if out is None else out
        if position is not None:
            out[..., position] = (h * c[:, None]).sum(-1) + D * u
    return out


def join_by_hand(attention, outputs):
    """Each direction's output times what its mean says, summed."""
    total = 0
    for y in outputs:
        mean = F.layer_norm(y.mT, y.shape[1:2], attention.norm.weight, attention.norm.bias, 1e-5).mean(1)
        hidden = F.gelu(F.linear(mean, attention.global_reduce.weight, attention.global_reduce.bias))
        weights = F.linear(hidden, attention.channel_select.weight, attention.channel_select.bias).sigmoid()
        total = total + y * weights[..., None]
    return total


def local_scan_by_hand(layer, x):
    """LocalVMamba: padding after the convolution reads zeros."""
    (B, _, H, W), dim, rank, states = x.shape, layer.d_inner, layer.dt_rank, layer.d_state
    x, z = F.conv2d(x, layer.in_proj.weight[:, :, None, None]).chunk(2, 1)
    x = F.silu(F.conv2d(x, layer.conv2d.weight, layer.conv2d.bias, padding=1, groups=dim)).flatten(2)
    outputs = []
    for k, direction in enumerate(DIRECTIONS):
        A, D = (each[k * dim : (k + 1) * dim] for each in (-layer.A_logs.exp(), layer.Ds))
        steps = []
        for position in cells(direction, H, W):
            u = x.new_zeros(B, dim) if position is None else x[..., position]
            dt, b, c = (u @ layer.x_proj_weight[k].T).split([rank, states, states], 1)
            steps.append((u, dt @ layer.dt_projs_weight[k].T, b, c, position))
        outputs.append(scan_by_hand(steps, A, D, layer.dt_projs_bias[k], H * W))
    y = join_by_hand(layer.multi_scan['attn'], outputs)
    y = F.layer_norm(y.mT, (dim,), layer.out_norm.weight, layer.out_norm.bias, 1e-5).mT.unflatten(2, (H, W))
    return F.conv2d(y * F.silu(z), layer.out_proj.weight[:, :, None, None])


def mixer_by_hand(mixer, x, H, W):
    """LocalVim: padding before the convolution, so that padding steps are not zero for the scan."""
    rank, states = mixer.dt_rank, mixer.d_state
    x, z = (x @ mixer.in_proj.weight.T).mT.chunk(2, 1)
    outputs = []
    for k, direction in enumerate(DIRECTIONS):
        part = {name: getattr(mixer, f'{name}_{k}') for name in ('conv1d', 'x_proj', 'dt_proj', 'A_log', 'D')}
        places = cells(direction, H, W)
        sequence = torch.stack([x[..., 0] * 0 if p is None else x[..., p] for p in places], -1)
        sequence = F.pad(sequence, (3, 0))
        steps = []
        for t, position in enumerate(places):
            taps = (sequence[..., t : t + 4] * part['conv1d'].weight[:, 0]).sum(-1)
            u = F.silu(taps + part['conv1d'].bias)
            dt, b, c = (u @ part['x_proj'].weight.T).split([rank, states, states], 1)
            steps.append((u, dt @ part['dt_proj'].weight.T, b, c, position))
        y = scan_by_hand(steps, -part['A_log'].exp(), part['D'], part['dt_proj'].bias, H * W)
        outputs.append(y * F.silu(z))
    return join_by_hand(mixer.attn, outputs).mT @ mixer.out_proj.weight.T


def randomise(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def compare(run, by_hand, module, x):
    """Outputs, and the gradients of the input and of every parameter."""
    both = [x.clone().requires_grad_() for _ in range(2)]
    found, expected = run(both[0]), by_hand(both[1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(found)
    inputs = [[each, *module.parameters()] for each in both]
    grads = [torch.autograd.grad((y * weights).sum(), of) for y, of in zip((found, expected), inputs, strict=True)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(('H', 'W'), SIZES)
def test_localvmambas_scan_written_out(H, W):
    layer = randomise(LocalScan2D(8, DIRECTIONS, d_state=3))
    compare(layer, lambda x: local_scan_by_hand(layer, x), layer, torch.randn(2, 8, H, W))


@pytest.mark.parametrize(('H', 'W'), SIZES)
def test_localvims_mixer_written_out(H, W):
    mixer = randomise(LocalVimMixer(8, DIRECTIONS, d_state=3))
    x = torch.randn(2, H * W, 8)
    compare(lambda x: mixer(x, (H, W)), lambda x: mixer_by_hand(mixer, x, H, W), mixer, x)


def test_a_convolution_of_a_class_of_ones_own_is_called():
    class Conv(torch.nn.Conv1d):
        calls = 0

        def forward(self, x):
            Conv.calls += 1
            return super().forward(x)

    mixer = randomise(LocalVimMixer(8, ('h', 'w2'), d_state=3))
    x = torch.randn(1, 15, 8)
    expected = mixer(x, (3, 5))
    for k in range(2):
        own = Conv(16, 16, 4, groups=16)
        own.load_state_dict(getattr(mixer, f'conv1d_{k}').state_dict())
        setattr(mixer, f'conv1d_{k}', own)
    torch.testing.assert_close(mixer(x, (3, 5)), expected)
    assert Conv.calls == 2


@pytest.mark.parametrize(
    ('build', 'words'),
    [
        (lambda: direction_paths(()), 'at least one name'),
        (lambda: direction_paths('h'), "directions='h' must be a sequence"),
        (lambda: direction_paths(('h', 'diag')), "unknown scan path 'diag'"),
        (
            lambda: LocalVim({'embed_dims': 8, 'depth': 3, 'directions': (('h',), ('v',))}),
            'directions has 2 lists for 3 blocks',
        ),
        (
            lambda: LocalVMamba({'depths': (1, 1, 1, 1), 'dim': 8, 'directions': (('h',),)}),
            'directions has 1 lists for 4 blocks',
        ),
    ],
)
def test_bad_directions(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_output_norms_keep_their_blocks():
    """A norm of the published models belongs to a quarter of the blocks, whichever others give outputs."""
    arch = {'embed_dims': 16, 'depth': 8, 'd_state': 2, 'directions': ('h', 'v')}
    model = LocalVim(arch, img_size=32, out_indices=(2, 3, 7))
    names = {name.split('.')[0] for name, _ in model.named_parameters() if name.startswith('outnorm')}
    assert names == {'outnorm_after2', 'outnorm_1', 'outnorm_3'}
    assert 'outnorm_0.' in model.not_built and 'outnorm_2.' in model.not_built
