"""Backbones inside something that wraps, replaces, observes or shards their parts: what is done has effect."""

import copy
import functools

import adapters
import pytest
import torch
from families import FAMILY_CASES, one_of_each
from test_backbones import FIRST_VARIANTS, build, image
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations, parametrize, prune

from mmvim.models.layers.adapter_layers import Extractor, Injector
from mmvim.models.layers.plain_layers import is_plain
from mmvim.ops.backends import ENV
from mmvim.registry import MODELS

ADAPTED = ('vim-middle', 'vrwkv-scaled')  # inside of a ViT-Adapter
SCAN_2D = {'type': 'mmvim.SelectiveScan2D', 'embed_dims': 8, 'd_state': 4}
MIXERS = [dict(cfg) for case in FAMILY_CASES.values() for cfg in case.mixers] + [SCAN_2D]


@pytest.fixture
def backend(request, monkeypatch):
    monkeypatch.setenv(ENV, request.param)
    return request.param


def mixer(index):
    torch.manual_seed(0)
    cfg = MIXERS[index]
    return MODELS.build(dict(cfg)), image(2, 8, 5, 6) if cfg is SCAN_2D else image(2, 30, cfg['embed_dims'])


def weighted(model):
    """The names of all layers that have weights of their own and a forward pass."""
    return [
        name
        for name, module in model.named_modules()
        if name and isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm, nn.RMSNorm, nn.BatchNorm2d))
    ]


def calls(model):
    """The names of the layers that one pass calls; an adapter's depthwise convolutions serve three maps each."""
    return [name for name in weighted(model) for _ in range(3 if name.endswith('.dwconv.dwconv') else 1)]


def outputs_and_gradients(model, *inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = model(*inputs)
    out = out if isinstance(out, tuple) else (out,)
    gen = torch.Generator().manual_seed(2)
    sum((y * torch.randn(y.shape, generator=gen)).sum() for y in out).backward()
    return [y.detach() for y in out], {name: p.grad for name, p in model.named_parameters()}


def assert_same(got, wanted):
    """Equal within the rounding of a matrix product: 3e-6 of the output's std on average, gradients likewise."""
    for y, reference in zip(got[0], wanted[0], strict=True):
        assert (y - reference).square().mean().sqrt() <= 3e-6 * reference.std()
    for name, reference in wanted[1].items():
        grad = got[1][name]
        assert (grad - reference).norm() <= 3e-6 * reference.norm() + 1e-9, name


@pytest.fixture(
    params=[
        *(pytest.param(p.values, marks=p.marks, id='-'.join(p.values)) for p in one_of_each('variants')),
        *(pytest.param(i, id=f'{cfg["type"]}-{i}') for i, cfg in enumerate(MIXERS)),
        *(pytest.param(plain, id=f'ViTAdapter-{plain}') for plain in ADAPTED),
    ],
)
def anything(request):
    """Every backbone, every mixer, and adapters, with their inputs."""
    if isinstance(request.param, int):
        return mixer(request.param)
    if isinstance(request.param, str):
        return adapters.lively(request.param).float(), image(2, 3, 64, 32)
    return build(*request.param), image(2, 3, 64, 48)


@pytest.mark.parametrize('backend', ['torch', 'native'], indirect=True)
def test_hooks_of_every_layer_fire_once(anything, backend):
    model, x = anything
    seen = []
    for name in weighted(model):
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.append(name))
    model(x)
    assert sorted(seen) == sorted(calls(model))


def test_calling_every_layer_gives_the_same(anything):
    """Hooks that do nothing switch the fused paths off."""
    model, x = anything
    model.eval()  # else dropped paths and batch statistics
    plain = copy.deepcopy(model)
    for name in weighted(model):
        model.get_submodule(name).register_forward_pre_hook(lambda module, inputs: None)
        assert not is_plain(type(model.get_submodule(name)), model.get_submodule(name))
    got, wanted = outputs_and_gradients(model, x), outputs_and_gradients(plain, x)
    assert_same(got, wanted)


def test_what_a_hook_returns_counts(anything):
    model, x = anything
    model.eval()
    names = [name for name in weighted(model) if any(part in name for part in ('x_proj', 'dt_proj', 'conv1d', 'norm'))]
    before = model(x)
    for name in names:
        handle = model.get_submodule(name).register_forward_hook(lambda module, inputs, output: output * 1.5)
        after = model(x)
        handle.remove()
        pairs = zip(before, after, strict=True) if isinstance(before, tuple) else [(before, after)]
        assert any(not torch.equal(a, b) for a, b in pairs), name


def test_functional_call(anything):
    model, x = anything
    model.eval()
    parameters = {name: p.detach() * 1.01 for name, p in model.named_parameters()}
    got = functional_call(model, parameters, (x,))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.01)
        wanted = model(x)
    for y, reference in zip(*((r,) if isinstance(r, torch.Tensor) else r for r in (got, wanted)), strict=True):
        torch.testing.assert_close(y, reference, rtol=1e-5, atol=1e-5)


def test_ensemble_by_vmap(anything):
    model, x = anything
    models = [model.eval(), copy.deepcopy(model).eval()]
    with torch.no_grad():
        for p in models[1].parameters():
            p.mul_(1.05)
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(model).to('meta')
    outputs = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers)
    for index, member in enumerate(models):
        wanted = member(x)
        for y, reference in zip(*((r,) if isinstance(r, torch.Tensor) else r for r in (outputs, wanted)), strict=True):
            torch.testing.assert_close(y[index], reference, rtol=1e-4, atol=1e-5)


class LowRank(nn.Module):
    """LoRA (Hu et al., https://arxiv.org/abs/2106.09685) as PEFT wraps a linear layer."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.normal_(self.up.weight, std=0.1)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def test_lora_trains(anything):
    model, x = anything
    model.eval().requires_grad_(False)  # not training: a dropped path has no gradient
    linear = [name for name in weighted(model) if type(model.get_submodule(name)) is nn.Linear]
    for name in linear:
        parent, _, own = name.rpartition('.')
        setattr(model.get_submodule(parent), own, LowRank(model.get_submodule(name)))
    _, grads = outputs_and_gradients(model, x)
    trained = {name for name, grad in grads.items() if grad is not None and grad.any()}
    assert trained == {f'{name}.{part}.weight' for name in linear for part in ('down', 'up')}


@pytest.mark.parametrize('convert', ['weight_norm', 'old_weight_norm', 'spectral_norm', 'prune', 'half_the_weight'])
def test_parametrised_weights(anything, convert):
    model, x = anything
    model.eval()
    before = model(x)
    converted = [name for name in weighted(model) if any(part in name for part in ('x_proj', 'dt_proj', 'conv1d'))]
    for name in converted:
        layer = model.get_submodule(name)
        if convert == 'weight_norm':
            parametrizations.weight_norm(layer)
        elif convert == 'old_weight_norm':
            with pytest.warns(FutureWarning):
                nn.utils.weight_norm(layer)
        elif convert == 'spectral_norm':
            parametrizations.spectral_norm(layer)
        elif convert == 'prune':
            prune.l1_unstructured(layer, 'weight', amount=0.5)
        else:
            parametrize.register_parametrization(layer, 'weight', Half())
    outputs, grads = outputs_and_gradients(model, x)
    before = before if isinstance(before, tuple) else (before,)
    same = all(torch.allclose(y, reference, 1e-4, 1e-5) for y, reference in zip(outputs, before, strict=True))
    assert same == (not converted or 'weight_norm' in convert)  # weight norm only writes the weights otherwise
    assert all(grad is not None for grad in grads.values())


class Half(nn.Module):
    def forward(self, x):
        return x / 2


def test_dynamic_int8(anything):
    model, x = anything
    model.eval()
    wanted = model(x)
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    got = quantised(x)
    for y, reference in zip(*((r,) if isinstance(r, torch.Tensor) else r for r in (got, wanted)), strict=True):
        error = (y - reference).square().mean().sqrt() / reference.std()
        assert error < 0.2
    assert not any(type(m) is nn.Linear for m in quantised.modules())


def test_replica_of_data_parallel(anything):
    """``nn.DataParallel`` runs replicas whose parameters are no ``nn.Parameter``; here as it makes them."""
    model, x = anything
    model.eval()

    def replicate(module):
        copied = module._replicate_for_data_parallel()
        for name, parameter in module._parameters.items():
            setattr(copied, name, None if parameter is None else parameter.clone())
        copied._modules = {name: None if m is None else replicate(m) for name, m in module._modules.items()}
        return copied

    got, wanted = replicate(model)(x), model(x)
    for y, reference in zip(*((r,) if isinstance(r, torch.Tensor) else r for r in (got, wanted)), strict=True):
        torch.testing.assert_close(y, reference)


def test_forward_replaced_on_the_object(anything):
    """As libraries for offloading and tracing do it."""
    model, x = anything
    model.eval()
    called = []
    for name in weighted(model):
        layer = model.get_submodule(name)
        own = layer.forward

        @functools.wraps(own)
        def forward(*args, own=own, name=name):
            called.append(name)
            return own(*args)

        layer.forward = forward
    model(x)
    assert sorted(called) == sorted(calls(model))


def test_meta_device(anything):
    model, x = anything
    wanted = model.eval()(x)
    got = model.to('meta')(x.to('meta'))
    for y, reference in zip(*((r,) if isinstance(r, torch.Tensor) else r for r in (got, wanted)), strict=True):
        assert y.is_meta and y.shape == reference.shape and y.dtype == reference.dtype


def test_fake_tensors(anything):
    from torch._subclasses.fake_tensor import FakeTensorMode

    model, x = anything
    wanted = model.eval()(x)
    with FakeTensorMode() as mode:
        weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        got = functional_call(model, {name: mode.from_tensor(w) for name, w in weights.items()}, mode.from_tensor(x))
    for y, reference in zip(*((r,) if isinstance(r, torch.Tensor) else r for r in (got, wanted)), strict=True):
        assert y.shape == reference.shape and y.dtype == reference.dtype


class OwnClass(torch.Tensor):
    """A weight that only its layer knows how to use, as a quantised or sharded one."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        assert func not in (torch.stack, torch.cat, torch.Tensor.flip, torch.Tensor.transpose), 'the weight was read'
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        return result.as_subclass(cls) if func is torch.Tensor.detach else result


def test_weights_of_a_class_of_their_own(anything):
    model, x = anything
    model.eval()
    wanted = model(x)
    for name in weighted(model):
        layer = model.get_submodule(name)
        if any(part in name for part in ('x_proj', 'dt_proj', 'conv1d')):
            layer.weight = nn.Parameter(layer.weight.detach().as_subclass(OwnClass))
            assert type(layer.weight) is OwnClass and not is_plain(type(layer), layer)
    for y, reference in zip(*((r,) if isinstance(r, torch.Tensor) else r for r in (model(x), wanted)), strict=True):
        torch.testing.assert_close(y, reference, rtol=1e-4, atol=1e-5)


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.covering(1)
@pytest.mark.parametrize('every', ['layer', 'block'])
@FIRST_VARIANTS
def test_fully_sharded(family, variant, every, one_process):
    """FSDP2: parameters are shards, whole only while the module that it wraps runs."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    x, plain = image(2, 3, 64, 48), build(family, variant).eval()
    sharded = copy.deepcopy(plain)
    mesh = init_device_mesh('cpu', (1,))
    parts = weighted(sharded) if every == 'layer' else None
    layers = FAMILY_CASES[family].blocks(sharded) if parts is None else [sharded.get_submodule(n) for n in parts]
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    got, wanted = outputs_and_gradients(sharded, x), outputs_and_gradients(plain, x)
    grads = {name: grad.full_tensor() for name, grad in got[1].items() if grad is not None}
    assert_same((got[0], grads), (wanted[0], {name: g for name, g in wanted[1].items() if g is not None}))


@pytest.mark.parametrize('plain', ADAPTED)
@pytest.mark.parametrize('every', ['layer', 'block'])
def test_fully_sharded_adapter(plain, every, one_process):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    x, model = image(2, 3, 64, 32), adapters.lively(plain).float()
    sharded = copy.deepcopy(model)
    parts = [module for name, module in sharded.named_modules() if name in weighted(sharded)]
    if every == 'block':
        parts = [*sharded.plain.layers, *(m for m in sharded.modules() if isinstance(m, (Injector, Extractor)))]
    for part in [*parts, sharded]:
        fully_shard(part, mesh=init_device_mesh('cpu', (1,)))
    got, wanted = outputs_and_gradients(sharded, x), outputs_and_gradients(model, x)
    assert_same((got[0], {name: grad.full_tensor() for name, grad in got[1].items()}), wanted)


@pytest.mark.covering(1)
@pytest.mark.parametrize('original', [True, False], ids=['original parameters', 'flat parameters'])
@FIRST_VARIANTS
def test_fully_sharded_by_the_first_version(family, variant, original, one_process):
    """FSDP1 around every layer: its wrapper is a module of another class, and the weights are flat outside of it."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    def policy(module, recurse, **_):
        return recurse or isinstance(module, (nn.Linear, nn.Conv1d, nn.LayerNorm))

    x, plain = image(2, 3, 64, 48), build(family, variant).eval()
    sharded = FullyShardedDataParallel(
        copy.deepcopy(plain), auto_wrap_policy=policy, use_orig_params=original, device_id=torch.device('cpu')
    )
    outputs = sharded(x)
    sum(y.square().mean() for y in outputs).backward()
    for y, expected in zip(outputs, plain(x), strict=True):
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    assert all(p.grad is not None for p in sharded.parameters() if p.requires_grad and p.numel())


@FIRST_VARIANTS
def test_data_parallel_needs_no_search_for_unused_parameters(family, variant, one_process):
    model = build(family, variant, drop_path_rate=0.0).train()
    parallel = nn.parallel.DistributedDataParallel(model)
    for _ in range(2):  # the second pass raises if the first left a gradient out
        sum(y.square().mean() for y in parallel(image(2, 3, 64, 48))).backward()
