"""The launch of a Triton kernel, the same for all ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class Prepared:
    """A launch that is done again and again with other tensors of the same kind, at little cost.

    Triton looks at each argument of a launch to find the kernel that it has compiled for such arguments. Here the first
    launch does so, and the kernel that it returns is launched from then on.

    Args:
        launch: The launch; its tensors need no memory.
        values: Its arguments in the order of the kernel's.
        pointers: For each tensor its place among the values, and among the tensors of a call.

    Examples:
        >>> from mmvim.ops.triton_host.launch import Launch, Prepared
        >>> kernel = {(2,): lambda *values, **options: print(values)}
        >>> prepared = Prepared(Launch(kernel, 2, {}), [None, 5], [(0, 1)])
        >>> prepared.run(['another', 'x'])
        ('x', 5)
    """

    def __init__(self, launch: Launch, values: Sequence[Any], pointers: Sequence[tuple[int, int]]) -> None:
        self.kernel, self.grid, self.options = launch.kernel, (launch.programs,), launch.compiler_options()
        self.values, self.pointers = list(values), tuple(pointers)
        for place, _ in self.pointers:
            self.values[place] = None  # hold no tensor
        self._compiled: Callable | None = None

    def run(self, tensors: Sequence[Any]) -> None:
        """Start the kernel on the current stream.

        Args:
            tensors: Those of a call.
        """
        values = self.values.copy()
        for place, index in self.pointers:
            values[place] = tensors[index]
        self.start(values)

    def start(self, values: Sequence[Any]) -> None:
        """Start the kernel on the current stream with all its arguments, in order."""
        if self._compiled is not None:
            self._compiled(*values)
            return
        compiled = self.kernel[self.grid](*values, **self.options)
        if hasattr(type(compiled), '__getitem__'):  # Triton's interpreter returns nothing
            self._compiled = compiled[(*self.grid, 1, 1)]
