"""What a launch of a Triton kernel is, the scan's and the fused ones alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Launch:
    """A kernel with its arguments; tests compile it for other machines instead of running it.

    Args:
        kernel: A function of ``triton.jit``.
        programs: Size of the grid, which has one axis.
        arguments: By the kernel's names.
        warps: Warps of a program. Defaults to 1.
        name: For messages and the record of resources. Defaults to ''.
        options: What else the compiler is told. Defaults to nothing.
    """

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    warps: int = 1
    name: str = ''
    options: dict[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        """Start the kernel on the current stream."""
        if self.programs:
            self.kernel[(self.programs,)](**self.arguments, num_warps=self.warps, **self.options)
