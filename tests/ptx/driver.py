"""Triton's launches on CPU tensors: the emulator in the place of the CUDA driver.

Within :func:`emulate` Triton believes that the current device is an NVIDIA GPU. It looks at the arguments, specialises
on what it finds (a 1, a multiple of 16, an aligned pointer), compiles to PTX and hands over the arguments, all by its
own code. Only the last step of the compilation is left out, the assembler's, and what is launched runs on the machine.
"""

import contextlib
import functools
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime import driver as triton_driver

from ptx.check import extents_of
from ptx.machine import run
from ptx.parse import parse
from ptx.translate import Program

# Shared memory that a program of each compute capability may take, in bytes.
MOST_SHARED = {75: 65_536, 80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
# The type of the parameter that a number becomes, by Triton's name of its type.
_NUMBERS = {f'{sign}{bits}': f'u{bits}' for sign in 'iu' for bits in (16, 32, 64)} | {'fp32': 'f32', 'fp64': 'f64'}
# Parameters that Triton adds: pointers to scratch memory, for which these kernels do not ask.
_ADDED = ['u64', 'u64']


@dataclass
class Emulation:
    """How kernels are run, and what has been run.

    Attributes:
        arch: Compute capability, 90 for 9.0.
        races: Whether to look for races. Defaults to False.
        folder: Where Triton's results and the library are kept. Defaults to None, Triton's folder and a temporary one.
        edit: Changes the PTX before it is run. Defaults to None.
        only: Takes the number of programs of a launch; returns which are run. Defaults to None, all.
        launches: Name of each kernel that was run.
        opcodes: All opcodes that were met.
    """

    arch: int
    races: bool = False
    folder: Path | None = None
    edit: Callable[[str], str] | None = None
    only: Callable[[int], Sequence[int]] | None = None
    launches: list[str] = field(default_factory=list)
    opcodes: set[str] = field(default_factory=set)


class Launcher:
    """What Triton calls to launch one compiled kernel."""

    def __init__(self, source: Any, metadata: Any):
        self.types = dict(source.signature)
        self.shared = metadata.shared
        self.scratch = metadata.global_scratch_size + metadata.profile_scratch_size

    def __call__(
        self,
        x: int,
        y: int,
        z: int,
        stream: int,
        function: str,
        packed_metadata: Any,
        launch_metadata: Any,
        enter: Any,
        leave: Any,
        *values: Any,
    ) -> None:
        emulation = triton_driver.active.emulation
        text = emulation.edit(function) if emulation.edit else function
        program = translate(text)
        arguments, tensors, types = [], [], []
        for (name, kind), value in zip(self.types.items(), values, strict=True):
            if kind == 'constexpr':
                continue
            if str(kind).startswith('*'):
                arguments.append(value.data_ptr())
                tensors.append((name, value))
                types.append('u64')
            elif kind in _NUMBERS:
                arguments.append(value)
                types.append(_NUMBERS[kind])
            else:
                raise TypeError(f'{name} is {kind}: the emulator passes pointers and numbers')
        found = list(program.kernel.parameters.values())
        if found != types + _ADDED or self.scratch:
            raise TypeError(f'{program.kernel.name} takes {found} and {self.scratch} bytes of scratch, not {types}')
        arguments += [0] * len(_ADDED)
        emulation.launches.append(program.kernel.name)
        emulation.opcodes |= program.opcodes
        only = None if emulation.only is None else emulation.only(x * y * z)
        extents = extents_of(tensors)
        run(program, (x, y, z), arguments, extents, self.shared, emulation.races, only, emulation.folder)


@functools.lru_cache(maxsize=256)
def translate(text: str) -> Program:
    """Return the program of a text of PTX."""
    return Program(parse(text))


class Driver:
    """What Triton asks about the device."""

    launcher_cls = Launcher

    def __init__(self, emulation: Emulation):
        self.emulation = emulation
        self.utils = SimpleNamespace(load_binary=self._load, get_device_properties=self._properties)

    @staticmethod
    def _load(name: str, binary: bytes, shared: int, device: int) -> tuple:
        """Return a module, the function, registers, spilled bytes and the most threads of a program."""
        return 'loaded', binary.decode(), 0, 0, 1024  # None would be asked for again at each launch

    def _properties(self, device: int) -> dict[str, int]:
        return {'max_shared_mem': MOST_SHARED[self.emulation.arch], 'multiprocessor_count': 132, 'warpSize': 32}

    def get_current_device(self) -> int:
        """Return a number that no GPU has: Triton keeps compiled kernels by it."""
        return 10_000 + self.emulation.arch

    def get_current_stream(self, device: int) -> int:
        """Return the only stream."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """Return what Triton compiles for."""
        return GPUTarget('cuda', self.emulation.arch, 32)

    def get_active_torch_device(self) -> torch.device:
        """Return where the tensors are."""
        return torch.device('cpu')


def why_not() -> str:
    """Return what keeps the emulator from running here; '' for nothing."""
    from ptx.machine import compiler

    if compiler() is None:
        return 'no C compiler: the emulator needs $CC, cc, gcc or clang'
    if sys.platform != 'linux':
        return 'the emulator needs Linux'
    if tuple(map(int, triton.__version__.split('.')[:2])) < (3, 7):
        return f'Triton {triton.__version__} may talk to its driver in another way; the emulator is written for 3.7'
    return ''


@contextlib.contextmanager
def emulate(arch: int, **options: Any) -> Iterator[Emulation]:
    """Run Triton's launches on CPU tensors, and make mmvim's Triton backends take these, within a block.

    Args:
        arch: Compute capability, a key of ``MOST_SHARED``.
        options: Further fields of :class:`Emulation`.

    Yields:
        The emulation, whose fields may be changed.
    """
    emulation = Emulation(arch, **options)
    before = triton_driver._active
    with contextlib.ExitStack() as stack:
        if emulation.folder is not None:
            stack.enter_context(mock.patch.dict(os.environ, {'TRITON_CACHE_DIR': str(emulation.folder / 'triton')}))
        stack.enter_context(mock.patch.object(CUDABackend, 'make_cubin', _leave_as_text))
        for name, value in (('interpreting', True), ('architecture', arch)):
            stack.enter_context(_answer(name, value))
        triton_driver.set_active(Driver(emulation))
        try:
            yield emulation
        finally:
            triton_driver._active = before


def _leave_as_text(self: CUDABackend, text: str, *_: Any, **__: Any) -> bytes:
    """Take the place of the assembler."""
    return text.encode()


@contextlib.contextmanager
def _answer(name: str, value: Any) -> Iterator[None]:
    """Let a function of mmvim/ops/triton_host/device.py return a value, wherever it has been imported."""
    import mmvim.ops

    for found in pkgutil.walk_packages(mmvim.ops.__path__, 'mmvim.ops.'):
        if not found.name.startswith('mmvim.ops.native.mmvim_native_'):  # the compiled library is no module
            importlib.import_module(found.name)
    function = getattr(sys.modules['mmvim.ops.triton_host.device'], name)
    answer = torch.compiler.assume_constant_result(lambda *_: value)
    with contextlib.ExitStack() as stack:
        for module in list(sys.modules.values()):
            if getattr(module, '__name__', '').startswith('mmvim.ops') and vars(module).get(name) is function:
                stack.enter_context(mock.patch.object(module, name, answer))
        yield
