"""The served convolution, norms and mixer, called as upstream calls them."""

import inspect

import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.usefixtures('names_served')


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolved(x, weight, bias, activation):
    y = F.conv1d(F.pad(x, (weight.shape[1] - 1, 0)), weight[:, None], bias, groups=x.shape[1])
    return y if activation is None else F.silu(y)


@pytest.mark.parametrize('activation', [None, 'silu', 'swish'])
@pytest.mark.parametrize('with_bias', [True, False])
def test_causal_conv1d_fn(activation, with_bias):
    from causal_conv1d import causal_conv1d_fn

    tensors = [x.requires_grad_() for x in (randn(2, 3, 11), randn(3, 4, seed=1), randn(3, seed=2))[: 2 + with_bias]]
    bias = tensors[2] if with_bias else None
    out = causal_conv1d_fn(x=tensors[0], weight=tensors[1], bias=bias, activation=activation)
    expected = convolved(tensors[0], tensors[1], bias, activation)
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous()
    weights = randn(*out.shape, seed=3)
    for grad, wanted in zip(*(torch.autograd.grad(y, tensors, weights) for y in (out, expected)), strict=True):
        torch.testing.assert_close(grad, wanted)
    if activation:  # first versions have the activation in the fourth place
        assert causal_conv1d_fn(*tensors[:2], bias, activation).equal(out)


@pytest.mark.parametrize('length', [2, 9])
def test_causal_conv1d_states(length):
    from causal_conv1d import causal_conv1d_fn

    x, weight, bias = randn(2, 3, 5 + length), randn(3, 4, seed=1), randn(3, seed=2)
    whole = convolved(x, weight, bias, 'silu')
    first, state = causal_conv1d_fn(x[..., :5], weight, bias, return_final_states=True, activation='silu')
    room = torch.empty_like(state)
    second, final = causal_conv1d_fn(
        x[..., 5:],
        weight,
        bias,
        initial_states=state,
        return_final_states=True,
        final_states_out=room,
        activation='silu',
    )
    torch.testing.assert_close(torch.cat([first, second], dim=-1), whole)
    assert final is room and final.equal(x[..., -3:])
    assert causal_conv1d_fn(x[..., :2], weight, return_final_states=True)[1].equal(F.pad(x[..., :2], (1, 0)))


def test_causal_conv1d_update():
    from causal_conv1d import causal_conv1d_update

    x, weight, bias = randn(2, 3, 7), randn(3, 4, seed=1), randn(3, seed=2)
    state, outputs = torch.zeros(2, 3, 4, dtype=x.dtype), []
    for t in range(3):
        outputs.append(causal_conv1d_update(x[..., t], state, weight, bias, 'silu')[..., None])
    outputs.append(causal_conv1d_update(x[..., 3:], state, weight, bias, 'silu'))
    torch.testing.assert_close(torch.cat(outputs, dim=-1), convolved(x, weight, bias, 'silu'))
    assert state.equal(x[..., -4:])
    with pytest.raises(ValueError, match='conv_state must be'):
        causal_conv1d_update(x[..., 0], state[..., :2], weight)


@pytest.mark.parametrize('form', [0, 1, 2])
@pytest.mark.parametrize('silu', [True, False])
def test_causal_conv1d_cuda(form, silu):
    import causal_conv1d_cuda

    tensors = [x.requires_grad_() for x in (randn(2, 3, 11), randn(3, 4, seed=1), randn(3, seed=2))]
    before = ((), (None,), (None, None, None))[form]
    out = causal_conv1d_cuda.causal_conv1d_fwd(*tensors, *before, silu)
    expected = convolved(*tensors, 'silu' if silu else None)
    torch.testing.assert_close(out, expected.detach())
    dout, room = randn(*out.shape, seed=3), torch.full_like(out, float('nan'))
    after = ((room,), (None, room), (None, None, None, room, False))[form]
    dx, dweight, dbias, *rest = causal_conv1d_cuda.causal_conv1d_bwd(*tensors, dout, *after, silu)
    assert dx is room and rest == ([None] if form == 2 else [])
    for grad, wanted in zip((dx, dweight, dbias), torch.autograd.grad(expected, tensors, dout), strict=True):
        torch.testing.assert_close(grad, wanted)


def test_what_the_convolution_refuses():
    import causal_conv1d_cuda
    from causal_conv1d import causal_conv1d_fn

    x, weight = randn(2, 3, 5), randn(3, 4)
    with pytest.raises(NotImplementedError, match='seq_idx is not served'):
        causal_conv1d_fn(x, weight, None, torch.zeros(2, 5, dtype=torch.int32))
    with pytest.raises(ValueError, match="activation must be None, 'silu' or 'swish', got 'relu'"):
        causal_conv1d_fn(x, weight, activation='relu')
    with pytest.raises(ValueError, match=r'weight \(D, W\), got \(2, 3, 5\) and \(5, 4\)'):
        causal_conv1d_fn(x, randn(5, 4))
    with pytest.raises(ValueError, match=r'initial_states must be \(2, 3, 3\)'):
        causal_conv1d_fn(x, weight, initial_states=x)
    with pytest.raises(TypeError, match='takes 4, 5 or 7 arguments'):
        causal_conv1d_cuda.causal_conv1d_fwd(x, weight, None)
    with pytest.raises(TypeError, match='takes 6, 7 or 10 arguments'):
        causal_conv1d_cuda.causal_conv1d_bwd(x, weight, None, x)
    with pytest.raises(NotImplementedError, match='without seq_idx'):
        causal_conv1d_cuda.causal_conv1d_fwd(x, weight, None, torch.zeros(2, 5), True)


@pytest.mark.parametrize('module', ['layer_norm', 'layernorm'])
@pytest.mark.parametrize('rms', [True, False])
def test_norms(module, rms):
    import importlib

    norms = importlib.import_module(f'mamba_ssm.ops.triton.{module}')
    x, residual = randn(2, 5, 8).requires_grad_(), randn(2, 5, 8, seed=1).requires_grad_()
    weight, bias = randn(8, seed=2).requires_grad_(), None if rms else randn(8, seed=3).requires_grad_()
    function = norms.rms_norm_fn if rms else norms.layer_norm_fn
    y, total = function(x, weight, bias, residual=residual, prenorm=True, residual_in_fp32=True, eps=1e-5)
    s = x + residual
    expected = (
        s / (s.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
        if rms
        else F.layer_norm(s, (8,), weight, bias, 1e-5)
    )
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(total, s)
    tensors = [t for t in (x, residual, weight, bias) if t is not None]
    both = (torch.autograd.grad((z * randn(*z.shape, seed=4)).sum(), tensors) for z in (y, expected))
    for grad, wanted in zip(*both, strict=True):
        torch.testing.assert_close(grad, wanted)
    assert function(x, weight, bias).shape == x.shape
    with pytest.raises(ValueError, match='weight must be'):
        function(x, weight[:3], bias)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_the_stream_of_residuals_is_float32(dtype):
    from mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn

    x = randn(2, 8).to(dtype)
    norm = RMSNorm(8, eps=1e-5, device='cpu', dtype=torch.float32)
    y, total = norm(x, prenorm=True, residual_in_fp32=True)
    assert (y.dtype, total.dtype) == (dtype, torch.float32)
    y, total = norm(x, residual=total, prenorm=True)
    assert (y.dtype, total.dtype) == (dtype, torch.float32)
    assert layer_norm_fn(x, norm.weight, None, prenorm=True)[1].dtype == dtype
    assert norm.bias is None and list(norm.state_dict()) == ['weight']


def test_vims_mixer_is_ours():
    from mamba_ssm.modules.mamba_simple import Mamba

    from mmvim.models import VimMixer

    torch.manual_seed(0)
    theirs = Mamba(8, d_state=4, layer_idx=0, bimamba_type='v2', if_divide_out=True, init_layer_scale=None)
    ours = VimMixer(8, d_state=4)
    assert set(theirs.state_dict()) == set(ours.state_dict())
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, 8)
    torch.testing.assert_close(theirs(x, inference_params=None), ours(x))
    theirs.if_divide_out = False
    ours.if_divide_out = False
    torch.testing.assert_close(theirs(x), ours(x))


@pytest.mark.parametrize('kind', ['none', 'v1', 'v2'])
def test_every_mixer_learns(kind):
    from mamba_ssm import Mamba

    torch.manual_seed(0)
    mixer = Mamba(8, d_state=4, bimamba_type=kind, bias=True, init_layer_scale=0.5)
    x = torch.randn(2, 6, 8)
    out = mixer(x)
    out.square().mean().backward()
    assert out.shape == x.shape and all(p.grad is not None and p.grad.abs().sum() > 0 for p in mixer.parameters())
    # only with one direction does what follows leave a token as it was
    changed = mixer(torch.cat([x[:, :3], 2 * x[:, 3:]], dim=1))
    assert changed[:, :3].allclose(out[:, :3], atol=1e-6) == (kind == 'none')


def test_what_the_mixer_refuses():
    from mamba_ssm import Mamba

    with pytest.raises(ValueError, match=r"bimamba_type must be one of \('none', 'v1', 'v2'\), got 'v3'"):
        Mamba(8, bimamba_type='v3')
    with pytest.raises(ValueError, match="dt_init must be 'random' or 'constant', got 'zero'"):
        Mamba(8, dt_init='zero')
    with pytest.raises(NotImplementedError, match='no generation'):
        Mamba(8)(torch.zeros(1, 2, 8), inference_params=object())


def test_the_language_side_can_be_imported():
    from mamba_ssm.utils.generation import GenerationMixin
    from mamba_ssm.utils.hf import load_config_hf, load_state_dict_hf

    assert inspect.isclass(GenerationMixin)
    for function in (GenerationMixin().generate, load_config_hf, load_state_dict_hf):
        with pytest.raises(NotImplementedError, match='install mamba_ssm'):
            function('name')
