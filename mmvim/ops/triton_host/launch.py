"""The launch of a Triton kernel, the same for all ops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Launch:
    """A kernel with its arguments; tests compile it for other machines instead of running it.

    Args:
        kernel: A function of ``triton.jit``.
        programs: Size of the grid, which has one axis; without programs nothing is launched.
        arguments: The kernel's arguments by name.
        warps: Warps of a program. Defaults to 1.
        name: Name in messages and in the record of resources. Defaults to ''.
        options: Further options of the compiler. Defaults to none.
        fuse: Whether the compiler may round a product and the sum that it goes to in one operation. It is always said,
            because versions of Triton differ in what they do unless told. Defaults to True.

    Examples:
        >>> from mmvim.ops.triton_host.launch import Launch
        >>> launch = Launch(kernel=None, programs=0, arguments={}, name='nothing')
        >>> launch.run()
        >>> launch.warps
        1
    """

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    warps: int = 1
    name: str = ''
    options: dict[str, Any] = field(default_factory=dict)
    fuse: bool = True

    def compiler_options(self) -> dict[str, Any]:
        """Return all options of the compiler by name, Triton's own keyword arguments of a launch."""
        return {'num_warps': self.warps, 'enable_fp_fusion': self.fuse, **self.options}

    def run(self) -> None:
        """Start the kernel on the current stream."""
        if self.programs:
            self.kernel[(self.programs,)](**self.arguments, **self.compiler_options())
