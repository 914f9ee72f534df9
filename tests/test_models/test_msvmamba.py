"""The multi-scale scan against the same written out: loops over steps, positions by hand, maps that are not square."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmvim.models import MultiScaleScan2D
from mmvim.registry import MODELS


def scan_by_hand(layer, maps, index, orders):
    """One sequence along all orders, step by step; each output is normed and added where it belongs."""
    dim, rank, states = layer.d_inner, layer.dt_rank, layer.d_state
    A = -layer.A_logs[index * dim : (index + 1) * dim].exp()
    D = layer.Ds[index * dim : (index + 1) * dim]
    out, h = torch.zeros_like(maps), maps.new_zeros(len(maps), dim, states)
    for cells in orders:
        for i, j in cells:
            u = maps[:, :, i, j]
            dt, b, c = (u @ layer.x_proj_weight[index].T).split([rank, states, states], dim=1)
            delta = F.softplus(dt @ layer.dt_projs_weight[index].T + layer.dt_projs_bias[index])
            h = torch.exp(delta[..., None] * A) * h + (delta * u)[..., None] * b[:, None]
            y = (h * c[:, None]).sum(-1) + D * u
            out[:, :, i, j] += F.layer_norm(y, (dim,), layer.out_norm.weight, layer.out_norm.bias, 1e-5)
    return out


def mix_by_hand(layer, x):
    """The layer as the paper has it."""
    inner = layer.d_inner
    both = F.conv2d(x, layer.in_proj.weight[:, :, None, None])
    x, z = both[:, :inner], both[:, inner:]
    whole = F.silu(F.conv2d(x, layer.conv2d.weight, layer.conv2d.bias, padding=1, groups=inner))
    half = F.silu(F.conv2d(x, layer.conv2d_b1.weight, layer.conv2d_b1.bias, stride=2, padding=3, groups=inner))
    (H, W), (h, w) = whole.shape[2:], half.shape[2:]
    assert (h, w) == (-(-H // 2), -(-W // 2))
    rows, columns = [(i, j) for i in range(h) for j in range(w)], [(i, j) for j in range(w) for i in range(h)]
    coarse = scan_by_hand(layer, half, 0, [rows[::-1], columns, columns[::-1]])
    y = scan_by_hand(layer, whole, 1, [[(i, j) for i in range(H) for j in range(W)]])
    y = y + F.interpolate(coarse, (H, W), mode='bilinear', align_corners=False)
    hidden = F.relu(y.mean((2, 3)) @ layer.se.fc[0].weight.T)
    y = y * torch.sigmoid(hidden @ layer.se.fc[2].weight.T)[:, :, None, None] * F.silu(z)
    return F.conv2d(y, layer.out_proj.weight[:, :, None, None])


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = MODELS.build({'type': 'mmvim.MultiScaleScan2D', 'embed_dims': 8, 'd_state': 2})
    for parameter in layer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return layer


@pytest.mark.parametrize(('H', 'W'), [(4, 6), (5, 8), (7, 3), (1, 9), (6, 1), (1, 1), (2, 2)])
def test_written_out(layer, H, W):
    x = torch.randn(2, 8, H, W)
    both = [x.clone().requires_grad_() for _ in range(2)]
    found, expected = layer(both[0]), mix_by_hand(layer, both[1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(found)
    inputs = [[each, *layer.parameters()] for each in both]
    grads = [torch.autograd.grad((y * weights).sum(), of) for y, of in zip((found, expected), inputs, strict=True)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_three_paths_are_one_sequence(layer):
    """Scans that start from zero each, as one would write them, give something else."""
    half = torch.randn(1, 16, 3, 2)
    together = layer._scan(half, 0, layer.half_paths)
    apart = sum(layer._scan(half, 0, (name,)) for name in layer.half_paths)
    assert (apart - together).abs().max() > 1e-2


def test_no_permuted_copy_is_made(layer):
    """No operation gathers, flips or copies whole maps: the scan reads through its paths."""

    class Copies(TorchDispatchMode):
        found = ()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            name = function.overloadpacket.__name__
            if name in ('index_select', 'index', 'gather', 'flip', 'roll', 'take'):
                self.found += ((name, tuple(result.shape)),)
            return result

    with torch.no_grad(), Copies() as copies:
        layer(torch.randn(1, 8, 12, 10))
    assert copies.found == ()


def test_sums_in_float32_under_autocast(layer):
    seen = []
    layer.out_norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.isfinite(layer(torch.randn(1, 8, 5, 4))).all()
    assert seen == [torch.float32]


def test_bad_paths():
    with pytest.raises(ValueError, match='half is empty'):
        MultiScaleScan2D(8, half=())
    with pytest.raises(ValueError, match='sideways'):
        MultiScaleScan2D(8, whole='sideways')
