"""Say what is installed, which backends run here and whether they compute the right thing. For bug reports, too.

    mmvim doctor

It takes some seconds; the first time on a machine the C++ scan is compiled before, about half a minute. The exit status
is 1 if a backend that runs here is wrong.
"""

import itertools
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from mmvim.cli.commands import command_parser
from mmvim.cli.errors import ENVIRONMENT
from mmvim.cli.installation import machine, packages, problems
from mmvim.cli.selfcheck import DTYPES, OPS, Check, check, placements, scan_seconds
from mmvim.ops.backends import REFERENCE, Backends
from mmvim.ops.native import load
from mmvim.ops.triton_host import device

_RULE = '\n## {}\n'


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        SystemExit: With status 1 if a backend that runs here computes something else than the definition, or fails.
    """
    parser = command_parser('doctor')
    parser.add_argument('--quick', action='store_true', help='say what there is, and run nothing')
    args = parser.parse_args(argv)
    print('## machine\n', *machine(), sep='\n')
    print(_RULE.format('packages'), *(f'{name:<10}{version}' for name, version in packages()), sep='\n')
    found = problems()
    if not args.quick:
        found += list(unusable())  # this compiles what has to be compiled
    print(_RULE.format('backends'), *backend_lines(), sep='\n')
    wrong = False
    if not args.quick:
        print(_RULE.format('checks: the largest error of outputs and gradients, relative to the largest value'))
        checks = []
        for key, group in itertools.groupby(run_checks(), lambda c: (c.op, c.backend, c.device)):
            row = list(group)
            print(f'{key[0]:<19}{key[1]:<8}{key[2]:<8}', '  '.join(map(_cell, row)), flush=True)
            checks += row
        failed = [c for c in checks if c.problem]
        found += [f'{c.op}, {c.backend} on {c.device}, {_name(c)}: {c.problem}; report this' for c in failed]
        wrong = bool(failed)
        print(_RULE.format('speed: a forward scan, (1, 384, 1024), 16 states, float32'))
        for op, backend, place in placements():
            if op == 'selective scan':
                print(f'{backend:<8}{place:<8}{1e3 * scan_seconds(backend, place):.2f} ms', flush=True)
    print(_RULE.format('problems'), *(found or ['none']), sep='\n')
    if wrong:
        raise SystemExit(ENVIRONMENT)


def unusable() -> Iterator[str]:
    """Yield why C++ and Triton cannot be used here, though a user would expect them.

    Examples:
        >>> from mmvim.cli.commands.doctor import unusable
        >>> all(isinstance(reason, str) for reason in unusable())
        True
    """
    reason = load.why_not()
    if reason:
        yield f'the C++ of mmvim cannot be used, plain PyTorch, which is slower, runs on CPUs: {reason}'
    gpus = [name for name in device.DEVICES if device.has_gpu(name)]
    if gpus and find_spec('triton') is None:
        yield 'there is a GPU and no Triton, plain PyTorch, which is slower, runs there; install it: pip install triton'
    for name in gpus if device.installed() else []:
        reason = device.problem_on(name)
        if reason:
            yield f'Triton cannot be used, plain PyTorch, which is slower, runs on the GPU: {reason}'


def backend_lines() -> Iterator[str]:
    """Yield a line for each op and backend: whether it can run here, and why (not).

    Examples:
        >>> from mmvim.cli.commands.doctor import backend_lines
        >>> next(backend_lines()).split()
        ['selective', 'scan', 'torch', 'yes', 'plain', 'PyTorch,', 'any', 'device']
    """
    for op in OPS:
        for backend, (usable, reason) in Backends.named(op).available().items():
            if backend != REFERENCE:
                yield f'{op:<19}{backend:<8}{"yes" if usable else "no":<4}{reason}'


def run_checks() -> Iterator[Check]:
    """Yield the result of every backend that can run here, in every dtype.

    Examples:
        >>> from mmvim.cli.commands.doctor import run_checks
        >>> next(run_checks()).op
        'selective scan'
    """
    for op, backend, place in placements():
        for dtype in DTYPES:
            yield check(op, backend, place, dtype)


def _name(result: Check) -> str:
    return str(result.dtype).removeprefix('torch.')


def _cell(result: Check) -> str:
    error = 'failed' if result.error is None else f'{result.error:.0e}'
    return f'{_name(result)} {error}{" WRONG" if result.problem and result.error is not None else ""}'
