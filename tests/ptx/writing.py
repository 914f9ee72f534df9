"""Small kernels in PTX, written by hand for the tests of the emulator, and how they are run on arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ptx.check import Extent
from ptx.machine import run
from ptx.parse import parse
from ptx.translate import Program

# Of each prefix: %p, %rs (16 bits), %r (32) and %rd (64). Parameter i is %rd<i>; the number of the thread in the whole
# grid is %r0.
REGISTERS = 32


def write(body: str, pointers: int = 1, threads: int = 32) -> str:
    """Return the text of a kernel.

    Args:
        body: Its statements.
        pointers: Number of its parameters. Defaults to 1.
        threads: Threads of a program. Defaults to 32.
    """
    parameters = ',\n'.join(f'\t.param .u64 .ptr .global .align 1 kernel_param_{i}' for i in range(pointers))
    loads = '\n'.join(f'ld.param.b64 %rd{i}, [kernel_param_{i}];' for i in range(pointers))
    return f""".version 8.7
.target sm_90
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry kernel(
{parameters}
)
.reqntid {threads}
{{
\t.reg .pred %p<{REGISTERS}>;
\t.reg .b16 %rs<{REGISTERS}>;
\t.reg .b32 %r<{REGISTERS}>;
\t.reg .b64 %rd<{REGISTERS}>;
\t{loads}
\tmov.u32 %r0, %ctaid.x;
\tmov.u32 %r1, %tid.x;
\tmad.lo.s32 %r0, %r0, {threads}, %r1;
{body}
\tret;
}}
"""


def run_text(text: str, arrays: Sequence[np.ndarray], programs: int = 1, **options: Any) -> None:
    """Run a kernel on arrays, which are its arguments and all that it may touch.

    Args:
        text: PTX.
        arrays: In the order of the parameters.
        programs: How many. Defaults to 1.
        options: As of :func:`ptx.machine.run`.
    """
    extents = [
        Extent(x.ctypes.data, x.ctypes.data + x.nbytes, f'array {number}')
        for number, x in enumerate(arrays)
        if x.nbytes
    ]
    run(Program(parse(text)), (programs, 1, 1), [x.ctypes.data for x in arrays], extents, **options)
