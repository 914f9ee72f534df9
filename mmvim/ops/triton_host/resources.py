"""Compile a launch for any GPU, without one, and read what it takes of a processor."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmvim.ops.triton_host.launch import Launch

_TYPES = {torch.float32: '*fp32', torch.float16: '*fp16', torch.bfloat16: '*bf16', torch.int64: '*i64'}
_WIDE = 'gfx9'  # AMD's architectures whose warps have 64 lanes; others have 32


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes of a GPU.

    Attributes:
        registers: Registers of a thread.
        spilled: Bytes that a thread spills to local memory.
        shared: Shared memory of a program, in bytes.

    Examples:
        >>> from mmvim.ops.triton_host.resources import Resources
        >>> Resources(registers=64, spilled=0, shared=1024).spilled
        0
    """

    registers: int
    spilled: int
    shared: int


def compile_launch(launch: Launch, arch: int | str) -> Any:
    """Compile a launch's kernel for an architecture, with the specialisation that Triton would choose at run time.

    Args:
        launch: The kernel and its arguments, whose tensors need no memory (device 'meta').
        arch: Compute capability of an NVIDIA GPU (90 is 9.0), or the name of an AMD architecture ('gfx942').

    Returns:
        Triton's compiled kernel.

    Examples:
        >>> import torch
        >>> from mmvim.ops.rms_norm.triton import forward_launch
        >>> from mmvim.ops.triton_host.resources import compile_launch, read_resources
        >>> x, weight = torch.empty(8, 64, device='meta'), torch.empty(64, device='meta')
        >>> launch, _ = forward_launch(x, None, weight, 1e-5, torch.float32)
        >>> read_resources(compile_launch(launch, 90)).spilled
        0
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    amd = isinstance(arch, str)
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(launch.kernel.params):
        name, value = parameter.name, launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[name], constants[name] = 'constexpr', value
        elif isinstance(value, torch.Tensor):
            signature[name] = _TYPES[value.dtype]
            attributes[(place,)] = [['tt.divisibility', 16]]
            if amd and value.numel() * value.element_size() < 2**31:
                attributes[(place,)] += [['tt.pointer_range', 32]]
        elif isinstance(value, float):
            signature[name] = 'fp32'
        elif value == 1 and not parameter.do_not_specialize:
            signature[name], constants[name] = 'constexpr', 1
        else:
            signature[name] = 'i32' if -(2**31) <= value < 2**31 else 'i64'
            if value % 16 == 0 and not parameter.do_not_specialize:
                attributes[(place,)] = [['tt.divisibility', 16]]
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = launch.compiler_options()
    if isinstance(arch, str):
        target = GPUTarget('hip', arch, 64 if arch.startswith(_WIDE) else 32)
        options = {name: value for name, value in options.items() if name not in launch.options}  # NVIDIA's
    else:
        target = GPUTarget('cuda', arch, 32)
    return triton.compile(source, target=target, options=options)


def read_resources(compiled: Any) -> Resources:
    """Read what the machine code takes: NVIDIA's by cuobjdump, which comes with Triton, AMD's by the assembler's text.

    Args:
        compiled: Result of :func:`compile_launch`; see there for an example.

    Raises:
        RuntimeError: If the machine code does not tell.

    Examples:
        >>> from types import SimpleNamespace
        >>> from mmvim.ops.triton_host.resources import read_resources
        >>> text = '.vgpr_count: 40 .private_segment_fixed_size: 0 .group_segment_fixed_size: 512'
        >>> read_resources(SimpleNamespace(asm={'amdgcn': text}))
        Resources(registers=40, spilled=0, shared=512)
    """
    if 'amdgcn' in compiled.asm:
        return _read_amd(compiled.asm['amdgcn'])
    import triton

    tool = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'cuobjdump'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        text = subprocess.run(
            [str(tool), '--dump-resource-usage', file.name], text=True, capture_output=True, check=True
        ).stdout
    found = re.search(rf'Function {compiled.metadata.name}:\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)', text)
    if found is None:
        raise RuntimeError(f'cuobjdump tells nothing about {compiled.metadata.name}: {text!r}')
    registers, stack, shared, local = map(int, found.groups())
    return Resources(registers, stack + local, max(shared, compiled.metadata.shared))


def _read_amd(text: str) -> Resources:
    """Read vector registers, bytes of a lane's own memory and shared memory from the assembler's metadata."""
    values = []
    for field in ('vgpr_count', 'private_segment_fixed_size', 'group_segment_fixed_size'):
        found = re.search(rf'\.{field}:\s+(\d+)', text)
        if found is None:
            raise RuntimeError(f'the machine code says nothing about {field}')
        values.append(int(found.group(1)))
    return Resources(*values)
