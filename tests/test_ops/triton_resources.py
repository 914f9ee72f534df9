"""What the scan's kernels take of a GPU when they are compiled: the specialisations, and the record of them.

    python tests/test_ops/triton_resources.py          # compile what the record lacks (all: twenty minutes of a core)
    python tests/test_ops/triton_resources.py --all    # record everything anew, after a kernel or the table has changed
    python tests/test_ops/triton_resources.py --check  # compile all of it again and compare

The record, triton_resources.json, has a line for each specialisation: registers a thread and bytes of shared memory of
each kernel. It holds for the version of Triton that it names. No GPU is needed; nothing runs.
"""

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

RECORD = Path(__file__).with_suffix('.json')
ARCHS, DTYPES = (80, 90, 100), ('float16', 'bfloat16', 'float32')
SETTINGS = ('vim', 'cross', 'gated')
MOST_SHARED = 16 * 1024
# So many warps of a kernel find room among the 65536 registers of a processor.
LEAST_WARPS = {'forward': 8, 'segments': 8, 'segments, adjoint': 8, 'backward': 8, 'merge': 16, 'collect': 16,
               'chain': 16, 'chain, adjoint': 16}


class Specialisation(NamedTuple):
    """A scan whose kernels are compiled; see :func:`launches` for the settings."""

    setting: str
    d_state: int
    dtype: str
    length: int
    arch: int

    def __str__(self) -> str:
        return f'{self.setting} N={self.d_state} {self.dtype} L={self.length} sm_{self.arch}'


# All numbers of states to a power of two; then settings as models have them (VMamba 1 or 16 states, MambaVision 8), and
# rows too short to be cut.
EVERY = [Specialisation(setting, n, dtype, length, arch) for setting, length, states in (
    ('vim', 1024, (16, 8, 1, 32, 64, 2, 4)), ('gated', 1024, (8, 64)), ('cross', 1024, (1, 16)), ('vim', 196, (1, 16)))
    for n, dtype, arch in product(states, DTYPES, ARCHS)]
# Few, and each row of the table, each architecture, dtype and setting among them.
FEW = [Specialisation(*x) for x in (
    ('vim', 1, 'float32', 1024, 80), ('cross', 1, 'float16', 1024, 90), ('vim', 1, 'float16', 196, 90),
    ('gated', 8, 'bfloat16', 1024, 100), ('vim', 16, 'float16', 1024, 90), ('vim', 64, 'float32', 1024, 90))]


def launches(setting: str, d_state: int, dtype: str, length: int) -> dict:
    """The launches of a forward and a backward pass by name, from tensors without memory.

    Settings: 'vim', two paths there and back with their own u, summed and gated; 'cross', four paths over one u, two
    along an index map, with their outputs summed; 'gated', one path with a gate in the kernel, a first state and the
    gradient of the last. All have D, delta_bias and softplus, and are cut into segments where the kernels may do so.
    """
    from mmvim.ops.selective_scan.arguments import ScanArguments
    from mmvim.ops.selective_scan.triton import plan
    batch, dim, kind, full = 2, 384, getattr(torch, dtype), torch.float32

    def empty(*shape, kind=kind):
        return torch.empty(shape, dtype=kind, device='meta')
    paths, own, ids, reverse = {'vim': (2, 2, (-1, -1), (False, True)),
                                'cross': (4, 1, (-1, 0, -1, 0), (False, False, True, True)),
                                'gated': (1, 1, (-1,), (False,))}[setting]
    args = ScanArguments(
        empty(batch, own, length, dim).mT, empty(batch, paths, length, dim).mT,
        empty(paths, dim, d_state, kind=full), empty(batch, paths, 1, length, d_state).mT,
        empty(batch, paths, 1, length, d_state).mT, empty(paths, dim, kind=full),
        None if setting == 'cross' else empty(batch, length, dim).mT, empty(paths, dim, kind=full),
        empty(batch, 1, dim, d_state, kind=full) if setting == 'gated' else None,
        empty(1, length, kind=torch.int64) if setting == 'cross' else None, ids, reverse, (True,) * 4, True, False,
        kind)
    segments = 4 if length >= 3 * plan.LEAST_SEGMENT else 1
    forward, (out, last_state, y, bounds) = plan.forward(args, True, segments=segments)
    backward, _ = plan.backward(args, out.mT, last_state.mT if setting == 'gated' else None, y, bounds,
                                segments=segments)
    return {launch.name + (', adjoint' if launch.arguments.get('ADJOINT') else ''): launch
            for launch in forward + backward}


def measure(wanted: Specialisation) -> dict:
    """Compile all kernels of a specialisation: their :class:`Resources` by name."""
    from mmvim.ops.selective_scan.triton import plan
    from mmvim.ops.selective_scan.triton.resources import compile_launch, read_resources
    with mock.patch.object(plan, 'architecture', lambda device: wanted.arch):
        found = launches(*wanted[:-1])
    return {name: read_resources(compile_launch(launch, wanted.arch)) for name, launch in found.items()}


def faults(found: dict) -> list[str]:
    """What is wrong with resources by kernel, whichever version of Triton compiled it."""
    wrong = []
    for name, one in found.items():
        warps = 65536 // (32 * -(-one.registers // 8) * 8)
        if one.spilled or one.shared > MOST_SHARED or warps < LEAST_WARPS[name]:
            wrong.append(f'{name}: {one}')
    return wrong


def brief(found: dict) -> dict[str, list[int]]:
    """As the record has it: registers and shared memory by kernel."""
    return {name: [one.registers, one.shared] for name, one in found.items()}


def read() -> dict:
    """The record: 'triton', its version, and 'kernels', by specialisation and kernel."""
    return json.loads(RECORD.read_text())


def write(record: dict) -> None:
    lines = ',\n'.join(f'{json.dumps(key)}: {json.dumps(value)}' for key, value in sorted(record['kernels'].items()))
    RECORD.write_text(f'{{"triton": {json.dumps(record["triton"])},\n"kernels": {{\n{lines}\n}}}}\n')


def main() -> int:
    import triton
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--all', action='store_true', help='compile what the record has, too')
    parser.add_argument('--check', action='store_true', help='write nothing; compare')
    parser.add_argument('--only', default='', help='only specialisations whose name contains this, as "N=16 float16"')
    args = parser.parse_args()
    record = read() if RECORD.exists() else {}
    if record.get('triton') != triton.__version__ or (args.all and not args.only):
        if args.check:
            parser.error(f'--check: the record is of Triton {record.get("triton")}, this is {triton.__version__}')
        record = {'triton': triton.__version__, 'kernels': {}}
    wrong = 0
    for wanted in sorted(EVERY, key=lambda x: x not in FEW):
        name = str(wanted)
        if args.only not in name or (name in record['kernels'] and not (args.all or args.check)):
            continue
        found = measure(wanted)
        bad = faults(found)
        if args.check and record['kernels'].get(name) != brief(found):
            bad.append(f'the record has {record["kernels"].get(name)}')
        wrong += bool(bad)
        print(name, brief(found), *bad, flush=True)
        if not args.check:
            record['kernels'][name] = brief(found)
            write(record)
    print(f'{wrong} specialisations with faults')
    return wrong > 0


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main())
