#!/usr/bin/env python
"""What does a call of the scan cost the host? Microseconds of each layer of a call, at few tokens, in C++ on a CPU.

    python tools/analysis_tools/benchmark_calls.py --markdown calls.md

For the scans of MambaVision's levels and LocalMamba's windows, and for a single token, where hardly anything is left to
compute: the public function; the operator of PyTorch's dispatcher behind it; the C++ function behind that; and an
operator of the same arguments and results, defined in the same way, that computes nothing (dispatch alone). They take
turns; the shortest of many calls counts. --profile lists what Python spends the public function's time on.

It measures mmvim itself, from a checkout.
"""

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

# Batch, channels, states, tokens.
SHAPES = {
    'one token': (1, 16, 1, 1),
    'MambaVision-T 224, level 4': (1, 320, 8, 49),
    'MambaVision-T 512, level 4': (9, 320, 8, 49),
    'MambaVision-T 224, level 3': (1, 160, 8, 196),
    'LocalVim-T 224': (1, 384, 16, 196),
}
HEADER = ('shape', 'function, us', 'operator, us', 'C++, us', 'dispatch alone, us', 'function without C++, us')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=200, help='turns of each. Defaults to 200')
    parser.add_argument('--calls', type=int, default=10, help='calls in a turn. Defaults to 10')
    parser.add_argument('--threads', type=int, default=1, help='Defaults to 1')
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    parser.add_argument('--profile', action='store_true', help='profile the public function instead')
    args = parser.parse_args(argv)
    if min(args.rounds, args.calls, args.threads) < 1:
        parser.error('--rounds, --calls and --threads must be at least 1')
    return args


def inputs(shape: tuple[int, int, int, int]) -> dict:
    """Return the arguments of a scan as a mixer has them: channels side by side in memory."""
    import torch

    batch, dim, states, length = shape
    torch.manual_seed(0)
    found = {name: torch.randn(batch, length, dim).mT for name in ('u', 'delta')}
    found |= {name: torch.randn(batch, length, states).mT for name in 'BC'}
    found |= {'A': -torch.rand(dim, states), 'D': torch.ones(dim), 'delta_bias': torch.zeros(dim)}
    return {**found, 'delta_softplus': True}


def layers(given: dict) -> dict[str, Callable]:
    """Return the calls that are compared, by the heading of their column."""
    import torch

    from mmvim.ops import selective_scan
    from mmvim.ops.define import define_operator
    from mmvim.ops.native.load import library
    from mmvim.ops.selective_scan.arguments import single_path
    from mmvim.ops.selective_scan.native import _flags
    from mmvim.ops.selective_scan.operators import _ARGUMENTS, fake_forward, selective_scan_fwd

    absent = dict.fromkeys(('z', 'initial_state', 'out_dtype'))
    args = single_path(**given, **absent, reverse=False)
    results = fake_forward(*args, False, 'auto')
    if not hasattr(torch.ops.mmvim, 'nothing'):
        schema = f'nothing({_ARGUMENTS}, ScalarType out_dtype, bool save, str backend) -> (Tensor, Tensor, Tensor)'
        define_operator(schema, lambda *_: results, fake_forward)
    nothing, native, flags = torch.ops.mmvim.nothing.default, library().scan_forward, _flags(args)

    def below(operator: Callable) -> Callable:
        def call() -> None:
            with torch._C._AutoDispatchBelowAutograd():
                operator(*args, False, 'auto')

        return call

    return {
        'function': lambda: selective_scan(**given),
        'operator': below(selective_scan_fwd),
        'C++': lambda: native(*args[:10], *flags, args.out_dtype, False),
        'dispatch alone': below(nothing),
    }


def measure(calls: dict[str, Callable], rounds: int, number: int) -> dict[str, float]:
    """Return the microseconds of each call: the shortest turn's, over its calls."""
    import torch

    shortest = dict.fromkeys(calls, float('inf'))
    with torch.no_grad():
        for _ in range(rounds):
            for name, call in calls.items():
                start = time.perf_counter()
                for _ in range(number):
                    call()
                shortest[name] = min(shortest[name], time.perf_counter() - start)
    return {name: 1e6 * seconds / number for name, seconds in shortest.items()}


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    args = parse_args(argv)
    import torch

    torch.set_num_threads(args.threads)
    if args.profile:
        call = layers(inputs(SHAPES['one token']))['function']
        with torch.no_grad(), cProfile.Profile() as profile:
            for _ in range(1000):
                call()
        pstats.Stats(profile).sort_stats('tottime').print_stats(25)
        return
    lines = ['| ' + ' | '.join(HEADER) + ' |', '|' + '-|' * len(HEADER)]
    for name, shape in SHAPES.items():
        found = measure(layers(inputs(shape)), args.rounds, args.calls)
        cells = [f'{found[column]:.1f}' for column in ('function', 'operator', 'C++', 'dispatch alone')]
        lines.append('| ' + ' | '.join([name, *cells, f'{found["function"] - found["C++"]:.1f}']) + ' |')
    print('\n'.join(lines))
    if args.markdown:
        args.markdown.write_text('\n'.join([*lines, '']), 'utf-8')


if __name__ == '__main__':
    main()
