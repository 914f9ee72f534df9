"""What PyTorch sees of the scan, the convolution and the WKV: an operator each, whichever backend serves it."""

import pytest
import torch
from helpers import BACKENDS, HERE, randn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mmvim.ops import bi_wkv, cross_scan, selective_scan, selective_scan_paths
from mmvim.ops.bi_wkv.operators import BACKENDS as WKVS
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.conv_silu.operators import BACKENDS as CONVOLUTIONS
from mmvim.ops.selective_scan.arguments import several_paths, single_path
from mmvim.ops.selective_scan.operators import BACKENDS as SCANS
from mmvim.ops.triton_host.device import interpreting

OPS = torch.ops.mmvim


@pytest.fixture
def unpoisoned(monkeypatch):
    monkeypatch.undo()  # NaN in what is left uninitialised on purpose would differ between two runs


# An interpreted step takes milliseconds.
LENGTH = 5 if interpreting() else 70


def scan_arguments(length=LENGTH, dtype=torch.float32, gated=True):
    tensors = [
        randn(1, 4, length),
        randn(1, 4, length, seed=1),
        -randn(4, 3).exp(),
        randn(1, 1, 3, length),
        randn(1, 1, 3, length, seed=1),
        randn(4),
        randn(1, 4, length),
        randn(4),
        randn(1, 4, 3),
    ]
    u, delta, A, B, C, D, z, bias, state = (x.to(dtype).requires_grad_() for x in tensors)
    return single_path(u, delta, A.float(), B, C, D, z if gated else None, bias, state, True, False, None)


def path_arguments(channels_last, shared, stack, dtype=torch.float32, gated=True):
    k = 1 if shared else 2

    def tokens(seed):
        x = randn(2, k, 6, LENGTH // 2, seed=seed).to(dtype)
        return x.transpose(2, 3).contiguous().transpose(2, 3) if channels_last else x

    z = randn(2, 6, LENGTH // 2).to(dtype) if gated else None
    B, C = (randn(2, k, 1, 3, LENGTH // 2, seed=seed).to(dtype) for seed in (3, 4))
    own = (randn(k, 6, 3), randn(k, 6), randn(k, 6))
    A, D, bias = (x.float()[0] if shared else x.float() for x in own)
    u, delta = (x[:, 0] if shared else x for x in (tokens(1), tokens(2)))
    paths, follow = ['forward', 'reverse'], ('u', 'delta', 'B', 'C')
    B, C = (x[:, 0, 0] if shared else x for x in (B, C))
    combine = 'stack' if stack else 'sum'
    return several_paths(u, delta, -A.exp(), B, C, D, z, bias, True, paths, follow, combine, None)


@BACKENDS
@pytest.mark.parametrize('save', [False, True])
def test_opcheck_scan(backend, save, unpoisoned):
    args = scan_arguments()
    if not save:
        args = args._replace(**{name: x.detach() for name, x in args.tensors().items()})
    torch.library.opcheck(OPS.selective_scan_fwd.default, (*args, save, backend))


@BACKENDS
def test_opcheck_scan_backward(backend, unpoisoned):
    args = scan_arguments()
    args = args._replace(**{name: x.detach() for name, x in args.tensors().items()})
    out, last_state, saved = OPS.selective_scan_fwd(*args, True, backend)
    torch.library.opcheck(
        OPS.selective_scan_bwd.default,
        (torch.ones_like(out), torch.ones_like(last_state), saved, *args[:-1], backend),
        test_utils=('test_schema', 'test_faketensor', 'test_autograd_registration'),
    )


@BACKENDS
def test_opcheck_conv(backend, unpoisoned):
    x, weight, bias = (x.float().requires_grad_() for x in (randn(2, 9, 24), randn(2, 24, 4), randn(2, 24)))
    torch.library.opcheck(OPS.conv_silu_fwd.default, (x, weight, bias, [3, 0], backend))
    tensors = [y.detach() for y in (torch.ones(2, 2, 9, 24), x, weight, bias)]
    torch.library.opcheck(
        OPS.conv_silu_bwd.default,
        (*tensors, [3, 0], backend),
        test_utils=('test_schema', 'test_faketensor', 'test_autograd_registration'),
    )


def wkv_inputs(*dtypes, length=LENGTH):
    """Decay and bonus, k and v, in two dtypes."""
    own, tokens = dtypes or (torch.float32, torch.float32)
    shapes = ((24,), own), ((24,), own), ((2, length, 24), tokens), ((2, length, 24), tokens)
    return [randn(*shape, seed=i).to(dtype) * (0.05 if i == 0 else 1) for i, (shape, dtype) in enumerate(shapes)]


@BACKENDS
@pytest.mark.parametrize('published', [False, True])
def test_opcheck_wkv(backend, published, unpoisoned):
    inputs = wkv_inputs()
    torch.library.opcheck(OPS.bi_wkv_fwd.default, (*(x.clone().requires_grad_() for x in inputs), published, backend))
    torch.library.opcheck(
        OPS.bi_wkv_bwd.default,
        (torch.ones_like(inputs[2]), *inputs, published, backend),
        test_utils=('test_schema', 'test_faketensor', 'test_autograd_registration'),
    )


def layouts(results):
    return [(x.shape, x.dtype, x.stride() if x.numel() else None) for x in results]


@pytest.mark.covering(2)
@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('shared', [False, True], ids=['own', 'shared'])
@pytest.mark.parametrize('stack', [False, True], ids=['sum', 'stack'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_all_backends_lay_results_out_alike(channels_last, shared, stack, dtype, unpoisoned):
    """And as the fake operators say: compiled graphs rely on strides, and opcheck does not compare them."""
    args, found = path_arguments(channels_last, shared, stack, dtype), []
    for backend in (*HERE, 'fake'):
        name = HERE[0] if backend == 'fake' else backend
        with FakeTensorMode() if backend == 'fake' else torch.no_grad() as mode:
            fake = {n: mode.from_tensor(x) for n, x in args.tensors().items()} if backend == 'fake' else {}
            out, last_state, saved = OPS.selective_scan_fwd(*args._replace(**fake), True, name)
            grads = OPS.selective_scan_bwd(out, last_state, saved, *args._replace(**fake)[:-1], name)
        found.append(layouts([out, last_state, *grads]))
        assert [x.dtype for x in grads[:5]] == [dtype, dtype, torch.float32, dtype, dtype]
    assert all(other == found[0] for other in found)


@BACKENDS
@pytest.mark.parametrize('gated', [False, True])
def test_what_is_saved_has_the_size_that_the_backend_says(backend, gated):
    for args in (scan_arguments(gated=gated), path_arguments(True, False, True, gated=gated)):
        size = SCANS[backend].implementation.saved_size(args)
        with torch.no_grad():
            assert OPS.selective_scan_fwd(*args, True, backend)[2].shape == (size,)
            assert OPS.selective_scan_fwd(*args, False, backend)[2].shape == (0,)


def test_conv_gradients_have_the_dtypes_of_their_inputs(unpoisoned):
    x, weight, bias = randn(2, 9, 24).bfloat16(), randn(2, 24, 4).float(), randn(2, 24).float()
    found = []
    for backend in (*HERE, 'fake'):
        with FakeTensorMode() if backend == 'fake' else torch.no_grad() as mode:
            inputs = [mode.from_tensor(t) for t in (x, weight, bias)] if backend == 'fake' else (x, weight, bias)
            name = HERE[0] if backend == 'fake' else backend
            y = OPS.conv_silu_fwd(*inputs, [3, 0], name)
            found.append(layouts([y, *OPS.conv_silu_bwd(y, *inputs, [3, 0], name)]))
    assert all(other == found[0] for other in found)
    assert [dtype for _, dtype, _ in found[0]] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize('dtypes', [(torch.float32, torch.bfloat16), (torch.float32,) * 2, (torch.float64,) * 2])
def test_all_backends_lay_the_results_of_wkv_out_alike(dtypes, unpoisoned):
    inputs, found = wkv_inputs(*dtypes), []
    inputs[2] = inputs[2].transpose(1, 2).contiguous().transpose(1, 2)
    for backend in (*HERE, 'fake'):
        with FakeTensorMode() if backend == 'fake' else torch.no_grad() as mode:
            own = [mode.from_tensor(t) for t in inputs] if backend == 'fake' else inputs
            name = HERE[0] if backend == 'fake' else backend
            y = OPS.bi_wkv_fwd(*own, False, name)
            found.append(layouts([y, *OPS.bi_wkv_bwd(y, *own, False, name)]))
    assert all(other == found[0] for other in found)
    assert [dtype for _, dtype, _ in found[0]] == [dtypes[1], dtypes[0], dtypes[0], dtypes[1], dtypes[1]]


class Block(torch.nn.Module):
    """A convolution, two scans and the bidirectional WKV, as mixers have them."""

    def __init__(self, backend=None):
        super().__init__()
        self.backend = backend
        self.weight = torch.nn.Parameter(randn(1, 24, 4).float())
        self.A = torch.nn.Parameter(-randn(24, 3).exp().float())

    def forward(self, x, B, C):
        u = conv1d_silu(x, self.weight, None, [3], self.backend)[:, 0].transpose(1, 2)
        y = selective_scan(u, u * 2, self.A, B, C, delta_softplus=True, backend=self.backend)
        decay, keys = self.A[:, 0], u.transpose(1, 2)
        y = y + bi_wkv(decay, decay, keys, keys * 2, backend=self.backend).transpose(1, 2)
        return y + selective_scan_paths(
            u, u, self.A, B, C, paths=['forward', 'reverse'], delta_softplus=True, backend=self.backend
        )


def block_inputs():
    return [x.float() for x in (randn(2, 12, 24), randn(2, 3, 12), randn(2, 3, 12, seed=1))]


@pytest.fixture
def served(monkeypatch):
    """The backends that ran, forward, by op."""
    ran = set()
    for op, registered in (('scan', SCANS), ('conv', CONVOLUTIONS), ('wkv', WKVS)):
        for name in HERE:
            found = registered[name]

            def forward(*args, op=op, name=name, run=found.implementation.forward):
                ran.add((op, name))
                return run(*args)

            watched = found._replace(implementation=found.implementation._replace(forward=forward))
            monkeypatch.setitem(registered._found, name, watched)
    return ran


@pytest.mark.parametrize('grad', [False, True], ids=['no_grad', 'grad'])
def test_an_exported_program_names_no_backend(grad, monkeypatch, served):
    """So that it runs on another device than it was exported on. No GPU is here: the environment stands in for it."""
    model, inputs = Block().eval(), block_inputs()
    monkeypatch.delenv('MMVIM_SCAN_BACKEND', raising=False)
    with torch.set_grad_enabled(grad):
        program = torch.export.export(model, tuple(inputs))
        expected = model(*inputs)
    targets = {str(node.target) for node in program.graph.nodes if 'mmvim' in str(node.target)}
    assert targets == {f'mmvim.{name}_fwd.default' for name in ('selective_scan', 'conv_silu', 'bi_wkv')}
    calls = [node for node in program.graph.nodes if str(node.target) in targets]
    assert {node.args[-1] for node in calls} == {'auto'}
    assert {node.args[-2] for node in calls if 'scan' in str(node.target)} == {False}
    for backend in HERE:
        served.clear()
        monkeypatch.setenv('MMVIM_SCAN_BACKEND', backend)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(*inputs), expected)
        assert served == {('scan', backend), ('conv', backend), ('wkv', backend)}


@pytest.mark.parametrize('backend', [*HERE, 'reference'])
def test_an_exported_program_can_be_trained_all_the_same(backend, monkeypatch):
    model, inputs = Block(), block_inputs()
    module = torch.export.export(model, tuple(inputs)).module()
    monkeypatch.setenv('MMVIM_SCAN_BACKEND', backend)
    for run in (module, model):
        run(*inputs).square().sum().backward()
    gradients = dict(module.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad)


@pytest.mark.covering(2)
@BACKENDS
@pytest.mark.parametrize('out_dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('gated', [False, True])
def test_the_last_state_alone_has_gradients(backend, dtype, out_dtype, gated):
    u, A, B, C = (x.float() for x in (randn(1, 4, 6), -randn(4, 3).exp(), randn(1, 3, 6), randn(1, 3, 6)))
    u, B, C = (x.to(dtype) for x in (u, B, C))
    leaves = [u, u.clone(), *([u.clone()] if gated else [])]
    found = []
    for name in (backend, 'reference'):
        own = [x.clone().requires_grad_() for x in leaves]
        options = {'return_last_state': True, 'out_dtype': out_dtype, 'backend': name}
        last = selective_scan(own[0], own[1], A, B, C, z=own[2] if gated else None, **options)[1]
        found.append(torch.autograd.grad(last.sum(), own, allow_unused=True))
    for got, expected in zip(*found, strict=True):
        expected = torch.zeros_like(got) if expected is None else expected
        torch.testing.assert_close(got, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


def test_a_graph_names_a_backend_only_if_the_call_does(monkeypatch):
    monkeypatch.setenv('MMVIM_SCAN_BACKEND', HERE[0])
    assert SCANS.in_graph(None) == SCANS.in_graph('auto') == 'auto'
    assert SCANS.in_graph(HERE[0]) == HERE[0]


def test_the_convolution_of_nothing():
    x, weight = torch.zeros(2, 0, 4, requires_grad=True), torch.ones(1, 4, 3, requires_grad=True)
    y = conv1d_silu(x, weight, None, [2])
    assert y.shape == (2, 1, 0, 4)
    assert torch.equal(torch.autograd.grad(y.sum(), weight)[0], torch.zeros(1, 4, 3))


@BACKENDS
def test_compile_without_graph_breaks(backend):
    model = Block(backend)
    inputs = [x.requires_grad_() for x in block_inputs()]
    leaves = [*inputs, *model.parameters()]
    found = []
    for run in (model, torch.compile(model, fullgraph=True, backend='aot_eager')):
        out = run(*inputs)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend='aot_eager')(*inputs), found[0][0])


def test_the_environment_decides_for_every_op_and_what_an_op_lacks_it_leaves_to_the_next(monkeypatch):
    from mmvim.ops.backends import Backend, Backends

    lacking = Backends('op of this test')
    lacking.register('torch', Backend(None, lambda: (True, '')))
    monkeypatch.setenv('MMVIM_SCAN_BACKEND', 'native')
    assert lacking.select(None, 'cpu') == lacking.select('native', 'cpu') == 'torch'
    with pytest.raises(ValueError, match="backend = 'abacus' is not a backend of the op of this test; available: "):
        lacking.select('abacus', 'cpu')
    del Backends._ops['op of this test']


@BACKENDS
def test_flops_are_counted(backend):
    inputs = randn(2, 6, 5), randn(2, 6, 5), randn(6, 3), randn(2, 3, 5), randn(2, 3, 5), randn(6), randn(2, 6, 5)
    inputs = [x.float().requires_grad_() for x in inputs]
    x, weight = randn(2, 9, 24).float().requires_grad_(), randn(2, 24, 4).float()
    for run, flops, times in (
        (lambda: selective_scan(*inputs, backend=backend), 2 * 6 * 5 * (9 * 3 + 2), 3),
        (lambda: conv1d_silu(x, weight, None, [3, 0], backend), 2 * 2 * 9 * 2 * 24 * 4, 2),
        (lambda: bi_wkv(weight[0, :, 0], weight[0, :, 1], x, x, backend=backend), 13 * 2 * 9 * 24, 3),
    ):
        with FlopCounterMode(display=False) as counter:
            out = run()
        assert counter.get_total_flops() == flops
        with FlopCounterMode(display=False) as counter:
            out.sum().backward()
        assert counter.get_total_flops() == times * flops
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        assert counter.get_total_flops() == flops


@BACKENDS
def test_double_backward_raises(backend):
    u = randn(1, 4, 6).float().requires_grad_()
    A, B, C = (x.float() for x in (-randn(4, 3), randn(1, 3, 6), randn(1, 3, 6)))
    x, weight = randn(1, 5, 4).float().requires_grad_(), randn(1, 4, 3).float()
    for out, leaf in (
        (selective_scan(u, u, A, B, C, backend=backend), u),
        (conv1d_silu(x, weight, None, [2], backend), x),
        (bi_wkv(weight[0, :, 0], weight[0, :, 1], x, x, backend=backend), x),
    ):
        (grad,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match=r"_bwd has no autograd formula.*backend='reference' has them"):
            torch.autograd.grad(grad.sum(), leaf)


def test_the_reference_can_be_differentiated_twice():
    u = randn(1, 4, 6).requires_grad_()
    A, B, C = -randn(4, 3).exp(), randn(1, 3, 6), randn(1, 3, 6)
    assert torch.autograd.gradgradcheck(lambda u: selective_scan(u, u, A, B, C, backend='reference'), u)
    x, weight = randn(1, 5, 4).requires_grad_(), randn(1, 4, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda *x: conv1d_silu(*x, None, [2], 'reference'), (x, weight))
    leaves = [x.requires_grad_() for x in (randn(3) * 0.1, randn(3), randn(1, 4, 3), randn(1, 4, 3, seed=1))]
    for boundary in ('exact', 'published'):
        assert torch.autograd.gradgradcheck(lambda *x, b=boundary: bi_wkv(*x, boundary=b, backend='reference'), leaves)


def test_a_trace_of_torch_jit_computes_the_same():
    """By an operator of its own, whose flags are numbers: MMEngine counts FLOPs in such a trace."""
    generator = torch.Generator().manual_seed(0)
    A, B, C = -torch.rand(4, 3, generator=generator), *torch.randn(2, 1, 3, 12, generator=generator)

    class Scan(torch.nn.Module):
        def forward(self, u):
            return selective_scan_paths(u, u, A, B, C, delta_softplus=True, paths=cross_scan(3, 4))

    traced = torch.jit.trace(Scan(), torch.zeros(1, 4, 12), check_trace=False)
    u = torch.randn(1, 4, 12, generator=generator)
    torch.testing.assert_close(traced(u), Scan()(u))
    assert 'mmvim::selective_scan_traced' in str(traced.graph)
