"""Define operators of PyTorch's dispatcher; every op of mmvim has one for its forward and one for its backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

_LIBRARY = torch.library.Library('mmvim', 'FRAGMENT')


def define_operator(schema: str, run: Callable, fake: Callable) -> Any:
    """Define ``torch.ops.mmvim.<name>``.

    An operator defined this way costs a third of ``torch.library.custom_op``'s time for a call, which counts on CPUs:
    a scan of few tokens takes a third of a millisecond.

    Args:
        schema: Name, arguments and results as PyTorch writes them, without defaults.
        run: Computes it, on any device. Gets all arguments by position.
        fake: Makes empty results of the right shapes, strides and dtypes from the same arguments.

    Returns:
        The operator's only overload.
    """
    name = schema.partition('(')[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, run, 'CompositeExplicitAutograd')
    torch.library.register_fake(f'mmvim::{name}', fake, lib=_LIBRARY)
    return getattr(torch.ops.mmvim, name).default


def register_derivative(name: str, backward: Callable, setup_context: Callable) -> None:
    """Register how gradients pass through an operator; arguments as of ``torch.library.register_autograd``."""
    torch.library.register_autograd(f'mmvim::{name}', backward, setup_context=setup_context, lib=_LIBRARY)


def refuse_second_derivative(name: str, op: str) -> None:
    """Let the derivative of a backward operator be an error that says so.

    Args:
        name: The operator.
        op: What the message calls the op.
    """

    def refuse(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(
            f'mmvim::{name} has no autograd formula: second derivatives of the {op} are not implemented; '
            "backend='reference' has them"
        )

    register_derivative(name, refuse, lambda ctx, inputs, output: None)


def is_watched() -> bool:
    """Check whether something watches or replaces operators: a compiler, an exporter, a count of FLOPs, a transform.

    Then an operator must be called as such; otherwise its implementation may be.
    """
    return bool(
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
    )


def are_plain(*tensors: object) -> bool:
    """Return whether no tensor is of a class of its own, such as a fake or a sharded one."""
    return all(x is None or type(x) is Tensor or type(x) is Parameter for x in tensors)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast runs matrix products in where ``x`` is, or None if it is off.

    Device types that autocast does not know, such as 'meta', have none; PyTorch's own question is an error there.

    Examples:
        >>> x = torch.zeros(2)
        >>> with torch.autocast('cpu', torch.bfloat16):
        ...     autocast_dtype(x), autocast_dtype(x.to('meta'))
        (torch.bfloat16, None)
    """
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    """Disable autocast in a block, where it would change the precisions that an operator has chosen.

    Args:
        x: Any tensor of the device that autocast may be on for.
    """
    on = autocast_dtype(x) is not None
    return torch.autocast(x.device.type, enabled=False) if on else contextlib.nullcontext()
