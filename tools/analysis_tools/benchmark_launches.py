#!/usr/bin/env python
"""What does a call of the scan cost the host of a GPU? Microseconds a call, with the launch itself left out.

    python tools/analysis_tools/benchmark_launches.py --before OTHER_CHECKOUT --markdown launches.md

No GPU is needed, nor used: tensors are on the CPU, and Triton does for each launch all that it does on a GPU, down to
the compiled kernel and its arguments, but for the call of the driver (``tests/ptx``). So the numbers are what Python,
PyTorch and Triton take until a GPU has its work, without the driver's own 2 to 5 microseconds a launch. The tensors are
small, lest what PyTorch itself computes on the CPU, sums of gradients over the batch, take time that a GPU would take.

- forward: without gradients. Forward that saves: with gradients wanted. Forward and backward: with all gradients taken.
- dispatch alone: operators of the same arguments and results, defined in the same way, that compute nothing.
- first call: of a kind, with the kernels compiled already: a plan is made (forward and backward).

Another checkout of this project (``git worktree add ../before REVISION``) is measured in turns with this one by
``--before``, each in a process of its own. What counts is the processor time of the shortest of many turns. --profile
lists where the time goes.

It measures mmvim itself, from a checkout.
"""

import argparse
import contextlib
import cProfile
import json
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

from taking_turns import Worker, serve  # noqa: E402

ARCH = 90
# Paths, whether there is a gate, whether all paths share u; 64 channels, 16 states, 16 tokens, batch 1.
SCANS = {
    'Vim, two paths': (('forward', 'reverse'), True, False),
    'VMamba, four paths': (('row', 'col', 'row_reverse', 'col_reverse'), False, True),
    'MambaVision, one path': ((), False, False),
}
CALLS = ('forward', 'forward that saves', 'forward and backward')
DISPATCH = {'forward': 'dispatch, forward', 'forward and backward': 'dispatch, forward and backward'}
FIRST = 'first call'
_KEPT = contextlib.ExitStack()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--before', type=Path, help='root of another checkout, which takes turns')
    parser.add_argument('--rounds', type=int, default=20, help='turns of each. Defaults to 20')
    parser.add_argument(
        '--calls', type=int, default=100, help='calls in a turn, so that caches are warm. Defaults to 100'
    )
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    parser.add_argument('--profile', choices=CALLS, help='profile this call of the first scan instead')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.rounds, args.calls) < 1:
        parser.error('--rounds and --calls must be at least 1')
    if args.before and not (args.before / 'tests' / 'ptx' / 'driver.py').is_file():
        parser.error(f'--before {args.before} is no checkout with tests/ptx/driver.py')
    return args


def without_launches() -> None:
    """Let Triton's launches do everything but launch, for the rest of the process."""
    from ptx.driver import Driver, Launcher, emulate

    from mmvim.ops.selective_scan import operators

    Launcher.__call__ = lambda *_: None
    Driver._load = staticmethod(lambda *_: ('a module', 'a function', 0, 0, 1024))
    _KEPT.enter_context(emulate(ARCH))
    # Without gradients tensors on CPUs alone went past the dispatcher once; here they stand for those of a GPU.
    if hasattr(operators, 'are_plain'):
        operators.are_plain = lambda *_: False


def scans() -> dict[str, dict[str, Callable]]:
    """Return the calls by scan and name."""
    import torch

    from mmvim.ops import scan_paths, selective_scan, selective_scan_paths

    torch.manual_seed(0)
    found = {}
    for scan, (names, gate, shared) in SCANS.items():
        paths = scan_paths(names, 4, 4) if shared else names
        k = (len(names),) if names else ()
        u, delta, z = (torch.randn(1, *own, 16, 64).mT for own in (() if shared else k, k, ()))
        B, C = (torch.randn(1, *k, 16, 16).mT for _ in 'BC')
        A, D, bias = -torch.rand(*k, 64, 16), torch.ones(*k, 64), torch.zeros(*k, 64)
        leaves = [x.requires_grad_() for x in (u, delta, A, B, C, D, *([z] if gate else []), bias)]
        grad = torch.randn(1, 16, 64).mT

        def call(leaves: list = leaves, gate: bool = gate, paths: Any = paths) -> torch.Tensor:
            u, delta, A, B, C, D, *z, bias = leaves
            inputs = (u, delta, A, B, C, D, z[0] if gate else None, bias, True)
            if not paths:
                return selective_scan(*inputs, backend='triton')
            return selective_scan_paths(*inputs, paths=paths, backend='triton')

        def forward(call: Callable = call) -> None:
            with torch.no_grad():
                call()

        def both(call: Callable = call, leaves: list = leaves, grad: torch.Tensor = grad) -> None:
            torch.autograd.grad(call(), leaves, grad)

        def first(both: Callable = both) -> None:
            forget()
            both()

        found[scan] = {**dict(zip(CALLS, (forward, call, both), strict=True)), FIRST: first}
    found[''] = dispatch()
    return found


def forget() -> None:
    """Forget plans, where there are any."""
    try:
        from mmvim.ops.selective_scan.triton import plans
    except ImportError:
        return
    plans.clear()


def dispatch() -> dict[str, Callable]:
    """Return calls of operators of the scan's arguments and results that compute nothing."""
    import torch

    from mmvim.ops.define import define_operator, register_derivative
    from mmvim.ops.selective_scan.arguments import several_paths
    from mmvim.ops.selective_scan.operators import _ARGUMENTS, fake_forward

    k = 2
    u, delta, z = torch.randn(1, k, 16, 64).mT, torch.randn(1, k, 16, 64).mT, torch.randn(1, 16, 64).mT
    B, C = (torch.randn(1, k, 16, 16).mT for _ in 'BC')
    leaves = [u, delta, -torch.rand(k, 64, 16), B, C, torch.ones(k, 64), z, torch.zeros(k, 64)]
    flags: dict[str, Any] = {
        'delta_softplus': True,
        'paths': ('forward', 'reverse'),
        'combine': 'sum',
        'out_dtype': None,
    }
    args = several_paths(*leaves, follow=('u', 'delta', 'B', 'C'), **flags)
    results = fake_forward(*args, False, 'triton')
    grads = [torch.empty_like(x) for x in args[:8]] + [torch.empty(0)]
    kept: list = []

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(output[2], *inputs[:10])
        ctx.flags = inputs[10:]
        ctx.set_materialize_grads(False)

    def differentiate(ctx: Any, grad_out: Any, grad_last: Any, _: Any) -> tuple:
        saved, *tensors = ctx.saved_tensors
        found = nothing_bwd(grad_out, grad_last, saved, *tensors, *ctx.flags[:-3], 'triton')
        return (*found[:8], *(None,) * 12)

    schema = f'nothing_fwd({_ARGUMENTS}, ScalarType out_dtype, bool save, str backend) -> (Tensor, Tensor, Tensor)'
    nothing_fwd = define_operator(schema, lambda *_: tuple(x.view(x.shape) for x in results), fake_forward)
    backward = f'nothing_bwd(Tensor grad_out, Tensor? grad_last_state, Tensor saved, {_ARGUMENTS}, str backend) -> '
    schema = backward + '(' + ', '.join(['Tensor'] * 9) + ')'
    nothing_bwd = define_operator(schema, lambda *_: tuple(x.view(x.shape) for x in grads), lambda *_: None)
    register_derivative('nothing_fwd', differentiate, setup)
    grad = torch.randn(1, 16, 64).mT
    inputs = [x.detach().requires_grad_() for x in args[:8]]
    rest = (*args[8:], True, 'triton')
    kept += [grads, results]

    def forward() -> None:
        with torch._C._AutoDispatchBelowAutograd():
            nothing_fwd(*args, False, 'triton')

    def both() -> None:
        torch.autograd.grad(nothing_fwd(*inputs, *rest)[0], inputs, grad)

    return {DISPATCH['forward']: forward, DISPATCH['forward and backward']: both}


def work(job: dict) -> None:
    """Answer with the microseconds of a turn of a call, asked for as JSON: scan and name."""
    sys.path[:0] = [job['root'], f'{job["root"]}/tests']
    import torch

    torch.set_num_threads(1)
    without_launches()
    calls = scans()

    def answer(question: str) -> float:
        scan, name = json.loads(question)
        call, number = calls[scan][name], 1 if name == FIRST else job['calls']
        start = time.process_time()
        for _ in range(number):
            call()
        return 1e6 * (time.process_time() - start) / number

    serve(answer)


def measure(roots: dict[str, Path], rounds: int, calls: int) -> dict[tuple[str, str, str], float]:
    """Return microseconds by checkout, scan and call; the shortest turn's."""
    workers = {}
    for name, root in roots.items():
        job = {'threads': 1, 'root': str(root.resolve()), 'calls': calls}
        workers[name] = Worker(__file__, job, {'PYTHONPATH': str(root.resolve())})
    wanted = [(scan, name) for scan in SCANS for name in (*CALLS, FIRST)] + [('', name) for name in DISPATCH.values()]
    found: dict[tuple[str, str, str], float] = {}
    for turn in range(rounds + 1):
        for scan, call in wanted:
            for name, worker in workers.items():
                took = worker.ask(json.dumps((scan, call)))
                if turn:  # the first one compiles
                    key = name, scan, call
                    found[key] = min(took, found.get(key, took))
    for worker in workers.values():
        worker.close()
    return found


def table(found: dict[tuple[str, str, str], float], compared: bool) -> str:
    """Return a Markdown table."""
    header = [
        'scan',
        'call',
        *(['before, us', 'now, us', 'now / before'] if compared else ['now, us']),
        'dispatch alone, us',
    ]
    lines = ['| ' + ' | '.join(header) + ' |', '|' + '-|' * len(header)]
    for scan in SCANS:
        for call in (*CALLS, FIRST):
            now = found['now', scan, call]
            cells = [scan, call]
            if compared:
                before = found['before', scan, call]
                cells += [f'{before:.0f}', f'{now:.0f}', f'{100 * now / before:.0f} %']
            else:
                cells += [f'{now:.0f}']
            alone = found.get(('now', '', DISPATCH.get(call, '')))
            lines.append('| ' + ' | '.join([*cells, '' if alone is None else f'{alone:.0f}']) + ' |')
    return '\n'.join(lines)


def profile(call: str) -> None:
    """Print where a call of the first scan spends its time."""
    sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]
    without_launches()
    run = scans()[next(iter(SCANS))][call]
    for _ in range(20):
        run()
    with cProfile.Profile(time.process_time) as found:
        for _ in range(300):
            run()
    pstats.Stats(found).sort_stats('tottime').print_stats(45)


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    args = parse_args(argv)
    if args.worker:
        work(json.loads(args.worker))
        return
    if args.profile:
        profile(args.profile)
        return
    roots = {'now': ROOT} if args.before is None else {'before': args.before, 'now': ROOT}
    text = table(measure(roots, args.rounds, args.calls), args.before is not None)
    print(text)
    if args.markdown:
        args.markdown.write_text(text + '\n', 'utf-8')


if __name__ == '__main__':
    main()
