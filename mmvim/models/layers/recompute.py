"""Activation checkpointing whose second forward pass leaves no trace."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


@contextlib.contextmanager
def copied_buffers(module: nn.Module) -> Iterator[None]:
    """Let a module work on copies of its buffers, and give it its own back afterwards.

    They are swapped rather than written back: autograd has saved some of them and would refuse changed ones.

    Args:
        module: The module, whose sub-modules are included.

    Examples:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> with copied_buffers(norm):
        ...     output = norm(torch.randn(8, 2))
        >>> norm.num_batches_tracked.item(), norm.running_mean.tolist()
        (0, [0.0, 0.0])
    """
    own = [(owner, dict(owner._buffers)) for owner in module.modules() if owner._buffers]
    for owner, buffers in own:
        owner._buffers.update({name: None if x is None else x.clone() for name, x in buffers.items()})
    try:
        yield
    finally:
        for owner, buffers in own:
            owner._buffers.update(buffers)


def recompute(module: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    """Run ``function(*inputs)`` and, instead of keeping its activations, run it again in the backward pass.

    The second pass draws the same random numbers, and changes no buffer: running statistics move once, as without
    recomputation.

    Args:
        module: Whose buffers ``function`` may change.
        function: The module itself, or a method of it.
        *inputs: Its arguments.

    Examples:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> recompute(norm, norm, torch.randn(8, 2, requires_grad=True)).sum().backward()
        >>> norm.num_batches_tracked.item()
        1
    """
    if torch.compiler.is_compiling():  # a compiled graph recomputes values, never the change of a buffer
        return checkpoint(function, *inputs, use_reentrant=False)
    return checkpoint(
        function,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), copied_buffers(module)),
    )
