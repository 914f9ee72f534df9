"""What the machine looks at while it runs a kernel, and what it says about it.

- Bounds: each access lies in one of the tensors that were passed, as far as their strides reach, or in the program's
  shared memory. (That it lies in the *right* one of these tensors is not checked.)
- Alignment: a vector lies at a multiple of its size; GPUs demand it, CPUs do not.
- Races in one program: a thread reads or writes what another one has written, or writes what another one has read,
  without a barrier between; that a warp's threads run in step here is not relied on. In a warp a shuffle, too, orders a
  write after a read, because a thread takes part in it with what it has read; it does not order a read after a write.
- Two writes of the same value are no race: the compiler lets several threads store copies of an element. If copies
  differ, as where threads have rounded one sum in different ways, it is chance which of them stays.
- Races between programs: two touch the same bytes, and one of them writes. No order of programs is ever guaranteed.
- Divergent branches, which the machine cannot follow, divisions by zero, and loops without an end.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from ptx.parse import Kernel

KINDS = {
    1: 'out of bounds',
    2: 'misaligned',
    3: 'read after write',
    4: 'write after write',
    5: 'write after read',
    6: 'between programs',
    7: 'divergent branch',
    8: 'division by zero',
    9: 'endless',
}


class Extent(NamedTuple):
    """Addresses that a kernel may touch.

    Attributes:
        low: First.
        high: The one after the last.
        name: Of the argument.
    """

    low: int
    high: int
    name: str


class Finding(NamedTuple):
    """What was found; fields as in machine.h, -1 where there is no other instruction or thread.

    Attributes:
        kind: Number in ``KINDS``.
        instruction: Number of the instruction.
        other: That of the instruction before it that touched the same.
        program: Number of the program.
        thread: Number of the thread.
        other_thread: That of the thread which executed ``other``.
        address: Which they touched.
        times: How often.
    """

    kind: int
    instruction: int
    other: int
    program: int
    thread: int
    other_thread: int
    address: int
    times: int


class Faults(Exception):
    """The machine found what a GPU would stumble over.

    Attributes:
        kinds: Values of ``KINDS`` that were found.
    """

    def __init__(self, findings: Sequence[Finding], text: str):
        super().__init__(text)
        self.kinds = {KINDS[one.kind] for one in findings}


def extents_of(tensors: Iterable[tuple[str, Tensor]]) -> list[Extent]:
    """Return what named tensors cover; those that overlap are one."""
    spans = []
    for name, x in tensors:
        if x.numel():
            last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
            spans.append(Extent(x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size(), name))
    found: list[Extent] = []
    for span in sorted(spans):
        if found and span.low < found[-1].high:
            before = found.pop()
            span = Extent(before.low, max(before.high, span.high), f'{before.name}, {span.name}')
        found.append(span)
    return found


def describe(kernel: Kernel, findings: Sequence[Finding], extents: Sequence[Extent]) -> str:
    """Return a line for each finding, with the lines of the Triton source."""
    lines = []
    for one in findings:
        here = kernel.instructions[one.instruction]
        line = f'{kernel.name}: {KINDS[one.kind]}, {one.times} times, '
        line += f'first by thread {one.thread} of program {one.program}'
        line += f' at {here.source} ({here.opcode}, line {here.line} of the PTX)'
        if one.other >= 0:
            other = kernel.instructions[one.other]
            line += f'; thread {one.other_thread} was there at {other.source} ({other.opcode}, line {other.line})'
        if one.address:
            shared = '.shared' in here.opcode
            line += f'; address {one.address:#x}{" of shared memory" if shared else _nearest(one.address, extents)}'
        lines.append(line)
    return '\n'.join(lines)


def _nearest(address: int, extents: Sequence[Extent]) -> str:
    """Return where an address lies, seen from the nearest tensor."""
    if not extents:
        return ''
    near = min(extents, key=lambda x: max(x.low - address, address - x.high, 0))
    return f', byte {address - near.low} of {near.name}, which has {near.high - near.low}'
