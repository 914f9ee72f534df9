"""How many instructions a step takes in the Triton kernels: counted in the machine code, without a GPU.

    python tests/test_ops/triton_counts.py               # count, compare with the record
    python tests/test_ops/triton_counts.py --write       # and record, after a kernel or the table has changed
    python tests/test_ops/triton_counts.py --table       # the record as Markdown: before the last round, and now

A number is the instructions that a warp issues for one step of 32 channels: those of the loops over steps, each as
often as its loop goes round, divided by the steps and the channels (in 32) of a program. What is before and after the
loops is left out. What stands in a loop counts even if a branch may pass over it, as it passes over the storing of
boundary states in three tiles of four; so the numbers are a bit too high rather than too low.

They are counts of sm_90's code, not times: how they become times is a model. MUFU, the unit of exponentials and
reciprocals, takes eight of the four-a-clock issue slots of a processor for one instruction, so that at least 8 * MUFU
slots pass in any case.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

RECORD = Path(__file__).with_suffix('.json')
KERNELS = ('forward', 'backward', 'segments', 'segments, adjoint')
ARCH = 90
# Setting, states, dtype and length of what is recorded; see triton_resources.build_launches.
WANTED = (
    ('vim', 16, 'float16', 196),
    ('vim', 16, 'float16', 1024),
    ('cross', 16, 'float16', 1024),
    ('gated', 8, 'float16', 1024),
    ('cross', 1, 'float16', 196),
    ('cross', 1, 'float16', 1024),
)


class Loop(NamedTuple):
    """A loop of the machine code: places of its first and last instruction."""

    first: int
    last: int

    def holds(self, other: 'Loop') -> bool:
        return self != other and self.first <= other.first and other.last <= self.last


def read_code(text: str) -> list[tuple[str, int | None]]:
    """Read ``cuobjdump -sass``: each instruction's opcode, and where it jumps to, if it does."""
    code, places, jumps = [], {}, []
    for address, instruction in re.findall(r'/\*([0-9a-f]{4,})\*/\s+([^;]+?)\s*;', text):
        words = re.sub(r'^@!?U?P\w+\s+', '', instruction).split()
        places[int(address, 16)] = len(code)
        found = re.search(r'\b0x([0-9a-f]+)$', instruction) if words[0].split('.')[0] == 'BRA' else None
        jumps.append(int(found[1], 16) if found else None)
        code.append(words[0])
    return [(opcode, None if to is None else places[to]) for opcode, to in zip(code, jumps, strict=True)]


def find_loops(code: list[tuple[str, int | None]]) -> list[Loop]:
    """Find the loops, each behind those that it stands in. Of jumps back to one place the last ends the loop."""
    ends: dict[int, int] = {}
    for place, (_, to) in enumerate(code):
        if to is not None and to < place:
            ends[to] = place
    return sorted((Loop(*x) for x in ends.items()), key=lambda loop: (loop.first, -loop.last))


def total(opcodes: list[str], start: str) -> int:
    return sum(opcode.startswith(start) for opcode in opcodes)


def bytes_stored(opcodes: list[str]) -> int:
    """Bytes that a lane stores."""
    stores = (opcode for opcode in opcodes if opcode.startswith('STG'))
    return sum(next((size for word, size in (('.128', 16), ('.64', 8)) if word in opcode), 4) for opcode in stores)


def count(name: str, code: list[tuple[str, int | None]], arguments: dict[str, Any]) -> Counter:
    """Count instructions by opcode for one step of 32 channels; see the module.

    Args:
        name: Of the kernel, one of ``KERNELS``.
        code: What :func:`read_code` returns.
        arguments: The launch's, for its constants.

    Raises:
        RuntimeError: If the loops are not those of the kernel.
    """
    d_state, steps, width = arguments['N'], arguments['STEPS'], arguments['BLOCK_D'] / 32
    chunk = arguments.get('CHUNK', 0)
    loops, opcodes = find_loops(code), [opcode for opcode, _ in code]

    def inside(loop: Loop) -> list[str]:
        return opcodes[loop.first : loop.last + 1]

    exponentials = {loop: total(inside(loop), 'MUFU.EX2') for loop in loops}
    outer = max(loops, key=lambda loop: exponentials[loop])
    rounds = {outer: 1 / (width * (chunk if name == 'backward' else steps))}  # for one step of 32 channels
    tops = [x for x in loops if outer.holds(x) and not any(outer.holds(y) and y.holds(x) for y in loops)]
    sweeps = [x for x in tops if exponentials[x]] if name == 'backward' else [outer]
    if name == 'backward':
        if len(sweeps) != 2:
            raise RuntimeError(f'{len(sweeps)} sweeps')
        rounds.update(zip(sweeps, (chunk // steps - 1, chunk // steps), strict=True))
    for sweep in sweeps:
        for loop in (x for x in loops if sweep.holds(x)):
            # Over states, so many at once, a power of two: there may be more exponentials, for the assembler computes
            # some again where registers are short. Without exponentials they are stored, once for each chunk.
            if exponentials[loop]:
                rounds[loop] = d_state / 2 ** int(math.log2(exponentials[loop] / (steps * width)))
            else:
                rounds[loop] = d_state / (bytes_stored(inside(loop)) / (4 * width)) * steps / chunk
    for loop in tops:
        if loop not in rounds:
            rounds[loop] = d_state / (bytes_stored(inside(loop)) / (4 * width))
    counts: Counter = Counter()
    for place, opcode in enumerate(opcodes):
        around = [loop for loop in rounds if loop.first <= place <= loop.last]
        if outer in around:
            weight = 1.0
            for loop in around:
                weight *= rounds[loop]
            counts[opcode.split('.')[0]] += weight
    return counts


def disassemble(compiled: Any) -> str:
    """The machine code as text."""
    import triton

    tool = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'cuobjdump'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        return subprocess.run([str(tool), '-sass', file.name], text=True, capture_output=True, check=True).stdout


def brief(counts: Counter, launch: Any, registers: int) -> dict[str, Any]:
    """A line of the record: block sizes, registers, instructions, and those that a unit of its own takes."""
    constants = launch.arguments
    return {
        'block': f'{constants["BLOCK_D"]}x{constants["STEPS"]}',
        'registers': registers,
        'instructions': round(sum(counts.values())),
        **{opcode: round(counts[opcode], 1) for opcode in ('MUFU', 'SHFL', 'LDG', 'STG')},
    }


def measure(setting: str, d_state: int, dtype: str, length: int) -> dict[str, dict[str, Any]]:
    """Compile a scan's kernels and count: a line for each of ``KERNELS`` that it has."""
    from triton_resources import build_launches

    from mmvim.ops.selective_scan.triton import sizes
    from mmvim.ops.triton_host.resources import compile_launch, read_resources

    with mock.patch.object(sizes, 'architecture', lambda device: ARCH):
        launches = build_launches(setting, d_state, dtype, length)
    found = {}
    for name, launch in launches.items():
        if name in KERNELS:
            compiled = compile_launch(launch, ARCH)
            resources = read_resources(compiled)
            if resources.spilled:
                raise RuntimeError(f'{setting} {d_state} {dtype} {length} {name} spills: {resources}')
            counts = count(name, read_code(disassemble(compiled)), launch.arguments)
            found[name] = brief(counts, launch, resources.registers)
    return found


def key(setting: str, d_state: int, dtype: str, length: int) -> str:
    return f'{setting} N={d_state} {dtype} L={length}'


def read() -> dict[str, Any]:
    """The record: 'triton', its version, 'before' and 'now', lines by scan and kernel."""
    return json.loads(RECORD.read_text())


def write(record: dict[str, Any]) -> None:
    parts = []
    for part in ('before', 'now'):
        lines = ',\n'.join(f'{json.dumps(k)}: {json.dumps(v)}' for k, v in sorted(record[part].items()))
        parts.append(f'"{part}": {{\n{lines}\n}}')
    RECORD.write_text(f'{{"triton": {json.dumps(record["triton"])},\n' + ',\n'.join(parts) + '\n}\n')


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    rows = ['| scan | kernel | block | instructions | MUFU x 8 | SHFL | LDG, STG | registers |', '|-|-|-|-|-|-|-|-|']
    for scan in record['now']:
        for kernel, now in record['now'][scan].items():
            old = record['before'].get(scan, {}).get(kernel, now)

            def both(show: Any, old: dict[str, Any] = old, now: dict[str, Any] = now) -> str:
                return show(now) if show(old) == show(now) else f'{show(old)} → {show(now)}'

            cells = [
                both(lambda x: x['block'].replace('x', ' x ')),
                both(lambda x: str(x['instructions'])),
                both(lambda x: f'{8 * x["MUFU"]:.0f}'),
                both(lambda x: f'{x["SHFL"]:.0f}'),
                both(lambda x: f'{x["LDG"]:.1f}, {x["STG"]:.1f}'),
                both(lambda x: str(x['registers'])),
            ]
            rows.append(f'| {scan} | {kernel} | {" | ".join(cells)} |')
    return '\n'.join(rows)


def main() -> int:
    import triton

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--write', choices=('before', 'now'), nargs='?', const='now', help='record as this part')
    parser.add_argument('--table', action='store_true', help='count nothing; print the record')
    parser.add_argument('--only', default='', help='only scans whose name contains this')
    args = parser.parse_args()
    record = read() if RECORD.exists() else {'before': {}, 'now': {}}
    if args.table:
        print(table(record))
        return 0
    record['triton'] = triton.__version__
    different = 0
    for wanted in WANTED:
        name = key(*wanted)
        if args.only not in name:
            continue
        found = measure(*wanted)
        different += record['now'].get(name) != found
        print(name, *(f'\n    {kernel}: {line}' for kernel, line in found.items()), flush=True)
        if args.write:
            record[args.write][name] = found
            write(record)
    print(f'{different} scans differ from the record')
    return different > 0 and not args.write


if __name__ == '__main__':
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]
    sys.exit(main())
