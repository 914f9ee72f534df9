"""The machine: the library that runs translated kernels, compiled once, and what it finds while it runs them."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ptx import opcodes
from ptx.check import Extent, Faults, Finding, describe
from ptx.translate import Program

_FOLDER = Path(__file__).parent
_HEADERS = ('numbers.h', 'machine.h')
_MOST_FINDINGS, _MOST_WARPS = 32, 32
_MOST_STEPS = 10**9


class _Extent(ctypes.Structure):
    _fields_ = [('low', ctypes.c_uint64), ('high', ctypes.c_uint64), ('traces', ctypes.c_void_p)]


class _Finding(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ('kind', 'instruction', 'other', 'program', 'thread', 'other_thread')),
        ('address', ctypes.c_uint64),
        ('times', ctypes.c_int64),
    ]


class _Machine(ctypes.Structure):
    _fields_ = [
        ('instructions', ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ('instruction_count', 'steps', 'most_steps')),
        *((name, ctypes.c_int32) for name in ('threads', 'check_races')),
        ('registers', ctypes.c_void_p),
        ('registers_size', ctypes.c_int64),
        ('program_id', ctypes.c_void_p * 3),
        ('grid', ctypes.c_uint32 * 3),
        ('programs', ctypes.c_void_p),
        ('program_count', ctypes.c_int64),
        ('shared', ctypes.c_void_p),
        ('shared_size', ctypes.c_int64),
        ('shared_traces', ctypes.c_void_p),
        ('extents', ctypes.POINTER(_Extent)),
        *((name, ctypes.c_int32) for name in ('extent_count', 'finding_count')),
        ('findings', _Finding * _MOST_FINDINGS),
        *((name, ctypes.c_int32) for name in ('program', 'last_extent')),
        ('barriers', ctypes.c_uint32),
        ('warp_barriers', ctypes.c_uint32 * _MOST_WARPS),
        ('meetings', ctypes.c_uint32 * _MOST_WARPS),
        ('outside', ctypes.c_uint8 * 64),
    ]


def compiler() -> str | None:
    """Return the path of the C compiler: ``$CC``, or cc, gcc or clang on the path; None if there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get('CC', ''), 'cc', 'gcc', 'clang'))), None)


@functools.cache
def library(folder: Path | None = None) -> ctypes.CDLL:
    """Return the library, compiled unless it lies in a folder already.

    Args:
        folder: Where it is kept. Defaults to None, a temporary one that is gone with the process.
    """
    source = opcodes.source()
    digest = hashlib.sha256('\0'.join([source, *((_FOLDER / name).read_text() for name in _HEADERS)]).encode())
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(folder or temporary) / f'machine-{digest.hexdigest()[:16]}.so'
        if not target.exists():
            (Path(temporary) / 'machine.c').write_text(source)
            built = Path(temporary) / 'built.so'
            # Contracted to fused operations, sums would be other than PTX says.
            options = [
                '-O1',
                '-std=gnu11',
                '-ffp-contract=off',
                '-fno-strict-aliasing',
                '-shared',
                '-fPIC',
                f'-I{_FOLDER}',
            ]
            result = subprocess.run(
                [compiler(), *options, '-o', built, Path(temporary) / 'machine.c', '-lm'],
                capture_output=True,
                text=True,
                check=False,
            )
            if result.returncode:
                raise RuntimeError(f'the library of the emulator does not compile:\n{result.stderr[:4000]}')
            shutil.copy(built, target.with_suffix(f'.{os.getpid()}'))
            target.with_suffix(f'.{os.getpid()}').rename(target)  # two processes may build it at once
        return ctypes.CDLL(str(target))


def run(
    program: Program,
    grid: tuple[int, int, int],
    arguments: Sequence[int | float],
    extents: Sequence[Extent] = (),
    shared: int = 0,
    races: bool = False,
    only: Sequence[int] | None = None,
    folder: Path | None = None,
) -> None:
    """Run programs of a kernel, one after the other.

    Args:
        program: The translated kernel.
        grid: Number of programs on each axis.
        arguments: A value for each of the kernel's parameters; pointers are addresses in this process.
        extents: What the kernel may read and write. Defaults to nothing.
        shared: Bytes of shared memory of a program. Defaults to 0.
        races: Whether to look for races. Defaults to False.
        only: Numbers of the programs to be run. Defaults to None, all.
        folder: As of :func:`library`.

    Raises:
        Faults: If the machine found any.
    """
    kernel = program.kernel
    if len(arguments) != len(kernel.parameters):
        raise TypeError(f'{kernel.name} has {len(kernel.parameters)} parameters; {len(arguments)} are given')
    for value, (name, kind) in zip(arguments, kernel.parameters.items(), strict=True):
        array = program.parameters[name]
        if kind.startswith('f'):
            array.view(f'f{array.itemsize}')[:] = value
        else:
            array[:] = int(value) % (1 << 8 * array.itemsize)
    for array, count in zip(program.programs, grid, strict=True):
        array[:] = count
    programs = np.array(range(int(np.prod(grid))) if only is None else only, np.int64)
    memory = np.empty(shared + 16, np.uint8)
    given = (_Extent * max(len(extents), 1))(*((x.low, x.high, None) for x in extents))
    machine = _Machine(
        instructions=program.code.ctypes.data,
        instruction_count=len(program.code),
        most_steps=_MOST_STEPS,
        threads=kernel.threads,
        check_races=races,
        registers=program.registers.ctypes.data,
        registers_size=program.registers.nbytes,
        program_id=tuple(x.ctypes.data for x in program.program_id),
        grid=grid,
        programs=programs.ctypes.data,
        program_count=len(programs),
        shared=memory.ctypes.data,
        shared_size=shared,
        extents=given,
        extent_count=len(extents),
    )
    if library(folder).run(ctypes.byref(machine)):
        raise MemoryError(f'no address space for the traces of {sum(x.high - x.low for x in extents)} bytes')
    found = [
        Finding(*(getattr(one, name) for name, _ in _Finding._fields_))
        for one in machine.findings[: machine.finding_count]
    ]
    if found:
        raise Faults(found, describe(kernel, found, extents))
