"""Plans of launches: they do what they were made of, for each kind of call its own, and are few."""

import gc
import threading
import weakref
from dataclasses import replace

import pytest
import torch
from emulated import NEEDS_EMULATOR
from triton_cases import CASES, LONG, PARTIAL, Case, errors_of

from mmvim.ops import selective_scan
from mmvim.ops.selective_scan.arguments import single_path
from mmvim.ops.selective_scan.triton import launches, plans
from mmvim.ops.triton_host.launch import Prepared

pytestmark = NEEDS_EMULATOR
BY_NAME = {case.name: case for case in (*CASES, *PARTIAL, *LONG)}


@pytest.fixture
def unlaunched(monkeypatch, emulate):
    """Triton takes tensors on the CPU, and what a plan would launch is noted and left out."""
    started = []
    monkeypatch.setattr(Prepared, 'start', lambda launch, values: started.append((launch.kernel, values)))
    with emulate(90):
        yield started


def inputs(seed=0, batch=2, dim=5, length=9, states=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    u, delta = (randn(batch, length, dim).to(dtype).mT for _ in range(2))
    B, C = (randn(batch, length, states).to(dtype).mT for _ in range(2))
    return [u, delta, -randn(dim, states).exp(), B, C]


def run(tensors, **more):
    leaves = [x.detach().requires_grad_() for x in tensors]
    out = selective_scan(*leaves, backend='triton', **more)
    return [out, *torch.autograd.grad(out.float().square().sum(), leaves)]


def arguments_of(tensors):
    return single_path(*tensors, None, None, None, None, True, False, None)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['segments', 'Vim'])
def test_later_calls_compute_as_the_first(name, emulate, request):
    """In other memory, through launches that a first call has left."""
    request.getfixturevalue('many_segments' if name == 'segments' else 'widest')
    case = replace(BY_NAME[name], batch=2)
    with emulate(90) as emulation:
        for _ in range(2):
            count = len(plans._PLANS)
            errors = errors_of(case, torch.float32)
            assert all(error < 2e-6 for error in errors.values()), errors
        assert len(plans._PLANS) == count == 2
    assert len(emulation.launches) % 2 == 0


@pytest.mark.slow
def test_a_plan_launches_what_it_was_made_of(emulate):
    args = arguments_of(inputs())
    with emulate(90):
        started, (out, last_state, saved) = launches.forward(args, True)
        for launch in started:
            launch.run()
        found = plans.forward(args, True)
        again = plans.forward(args, True)
    for mine, once, more in zip((out.squeeze(1).mT, last_state.mT, saved), found, again, strict=True):
        assert mine.stride() == once.stride()
        for other in (once, more):  # what is saved is filled up with numbers that nobody writes
            torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


def test_calls_of_a_kind_share_a_plan(unlaunched, monkeypatch):
    made = []
    for name in ('forward', 'backward'):
        real = getattr(launches, name)
        monkeypatch.setattr(launches, name, lambda *a, real=real, name=name, **k: made.append(name) or real(*a, **k))
    for seed in range(3):
        run(inputs(seed))
    assert (
        made == ['forward', 'backward'] and len(unlaunched) == 3 * 4
    )  # one forward; backward, and one each for B and C


def wide(tensors):
    """U as the first of a wider tensor's channels."""
    u = tensors[0]
    return [torch.cat([u, u], 1).mT.contiguous().mT[:, : u.shape[1]], *tensors[1:]]


def steps_fastest(tensors):
    return [tensors[0].contiguous(), *tensors[1:]]


def unaligned(tensors):
    u = tensors[0]
    return [torch.empty(u.numel() + 1)[1:].view(u.mT.shape).copy_(u.mT).mT, *tensors[1:]]


@pytest.mark.parametrize(
    ('change', 'more'),
    [
        (wide, {}),
        (steps_fastest, {}),
        (unaligned, {}),
        (lambda x: x, {'reverse': True}),
        (lambda x: x, {'delta_softplus': True}),
        (lambda x: x, {'out_dtype': torch.float16}),
        (lambda x: [x[0].half(), *x[1:]], {}),
        (lambda x: inputs(batch=3), {}),
        (lambda x: inputs(length=10), {}),
    ],
)
def test_calls_that_differ_do_not(change, more, unlaunched):
    run(inputs())
    kept = set(plans._PLANS)
    run(change(inputs()), **more)
    forward = [key for key in set(plans._PLANS) - kept if key[0] is not None]
    assert len(forward) == 1


def test_devices_have_plans_of_their_own(emulate, monkeypatch):
    monkeypatch.setattr(Prepared, 'start', lambda launch, values: None)
    for arch in (80, 90, 80):
        with emulate(arch):
            run(inputs())
    assert len(plans._PLANS) == 4


def test_plans_are_few(unlaunched, monkeypatch):
    monkeypatch.setattr(plans, 'MOST_PLANS', 3)
    for length in range(2, 9):
        with torch.no_grad():
            selective_scan(*inputs(length=length), backend='triton')
    assert len(plans._PLANS) == 3
    assert [key[7][0][-1] for key in plans._PLANS] == [6, 7, 8]  # the youngest, by the length of u


def test_plans_hold_no_tensor(unlaunched):
    tensors = inputs()
    out, *grads = run(tensors)
    known = [weakref.ref(x) for x in (*tensors, out, *grads)]
    del tensors, out, grads
    unlaunched.clear()
    gc.collect()
    assert plans._PLANS and not any(ref() is not None for ref in known)


def test_each_pointer_is_filled_in(unlaunched):
    """No launch is left with the tensors of an earlier call."""
    run(inputs())
    first = {id(x) for _, values in unlaunched for x in values if isinstance(x, torch.Tensor)}
    kept = list(unlaunched)  # lest memory is used again
    unlaunched.clear()
    run(inputs(1))
    second = {id(x) for _, values in unlaunched for x in values if isinstance(x, torch.Tensor)}
    assert kept and second and not first & second


def test_threads_share_plans(emulate, monkeypatch):
    """Each call's launches get its own tensors, whoever makes plans and launches at the same time."""

    def start(launch, values):
        given = dict(zip(launch.kernel.arg_names, values, strict=True))
        given['out_ptr'].fill_(given['u_ptr'].sum().item())

    monkeypatch.setattr(Prepared, 'start', start)
    wrong = []

    def work(seed):
        for turn in range(40):
            tensors = inputs(seed, length=17 + (seed + turn) % 5)
            with torch.no_grad():
                out = selective_scan(*tensors, backend='triton')
            if not (out == tensors[0].sum()).all():
                wrong.append((seed, turn))

    with emulate(90):
        threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert not wrong and len(plans._PLANS) == 5


@pytest.mark.slow
def test_fake_tensors_and_graphs_make_no_plan(unlaunched):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(x) for x in inputs()]
        assert selective_scan(*fake, backend='triton').shape == (2, 5, 9)
    assert not plans._PLANS
    compiled = torch.compile(lambda *x: selective_scan(*x, backend='triton'), backend='aot_eager', fullgraph=True)
    with torch.no_grad():
        compiled(*inputs())
    assert len(plans._PLANS) == 1  # when the graph runs


def test_paddings_read_zeros_of_their_dtype(unlaunched):
    case = next(case for case in PARTIAL if case.name == 'one with a gate')
    leaves = [
        None if x is None else x.to(torch.float16 if i in (0, 1, 3, 4, 6) else torch.float32)
        for i, x in enumerate(case.inputs())
    ]
    with torch.no_grad():
        case.run(leaves, 'triton')
    kernel, values = unlaunched[-1]
    zeros = values[kernel.arg_names.index('B_zeros_ptr')]
    assert zeros.dtype == torch.float16 and not zeros.any()


@pytest.mark.parametrize('name', [case.name for case in (*CASES, *PARTIAL)])
def test_every_case_has_plans(name, unlaunched):
    case: Case = BY_NAME[name]
    leaves = [None if x is None else x.float().requires_grad_() for x in case.inputs()]
    out = case.run(leaves, 'triton')
    out = out[0] if isinstance(out, tuple) else out
    torch.autograd.grad(out.sum(), [x for x in leaves if x is not None], allow_unused=True)
    assert len(plans._PLANS) == 2


def test_memory_that_a_plan_does_not_know_is_refused(unlaunched, monkeypatch):
    """A copy that ``launches.py`` makes by itself would be lost in a plan."""
    monkeypatch.setattr(launches, 'contiguous_or_none', lambda x: None if x is None else x * 2)
    tensors = inputs()
    with pytest.raises(RuntimeError, match=r'a tensor of \(1, 5\) was made past memory\.py'):
        selective_scan(*tensors, torch.ones(5), backend='triton')
