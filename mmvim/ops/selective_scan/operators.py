"""The operators ``mmvim::selective_scan_fwd`` and ``mmvim::selective_scan_bwd``, whichever backend serves them.

Their arguments are those of :class:`ScanArguments`, in its order. The last one names the backend. Without gradients it
may be 'auto': the operator then chooses when it runs, so that a program exported on one device runs on another. With
gradients it is the one that the call found, because it decides what the forward pass saves for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmvim.ops.backends import PLAIN, REFERENCE, Backends
from mmvim.ops.define import define_operator, refuse_second_derivative, register_derivative
from mmvim.ops.selective_scan.arguments import TENSORS, ScanArguments, empty_rows
from mmvim.ops.selective_scan.reference import scan_reference

BACKENDS = Backends('selective scan')

_ARGUMENTS = (
    'Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, '
    'Tensor? initial_state, Tensor? maps, int[] map_ids, bool[] reverse, bool[] follow, '
    'SymInt length, bool partial, bool delta_softplus, bool stack'
)
_FORWARD = f'selective_scan_fwd({_ARGUMENTS}, ScalarType out_dtype, bool save, str backend) -> (Tensor, Tensor, Tensor)'
_BACKWARD = (
    f'selective_scan_bwd(Tensor grad_out, Tensor? grad_last_state, Tensor saved, {_ARGUMENTS}, str backend) -> '
    '(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)'
)
# The tracer of torch.jit, by which MMEngine counts FLOPs, knows no lists of flags: they are numbers there.
_TRACED = (
    f'selective_scan_traced({_ARGUMENTS.replace("bool[]", "int[]")}, ScalarType out_dtype, str backend) -> '
    '(Tensor, Tensor)'
)
_FIELDS = len(ScanArguments._fields)
# Called with the arguments of each scan that runs as an operator; see :mod:`mmvim.ops.selective_scan.states`.
WATCHERS: list[Callable[[ScanArguments], None]] = []


class Implementation(NamedTuple):
    """What a backend of the scan is made of.

    Attributes:
        forward: From the arguments and whether to save: out, last_state and saved, laid out as
            :func:`fake_forward` says.
        backward: From the arguments, the gradients of out and last_state and what the forward pass saved: gradients of
            all tensors but maps, by name, in their dtypes, laid out by :func:`empty_rows`. None for the reference,
            which autograd differentiates.
        saved_size: Number of values that the forward pass saves.
        lay_out: Returns the arguments in the memory order that both passes read, copied where they have another one.
            Where gradients are wanted it is called before the operator, which then saves these copies instead of making
            them again in the backward pass. Defaults to None: no order is needed.
    """

    forward: Callable[[ScanArguments, bool], tuple[Tensor, Tensor, Tensor]]
    backward: Callable[[ScanArguments, Tensor, Tensor | None, Tensor], dict[str, Tensor]] | None
    saved_size: Callable[[ScanArguments], int]
    lay_out: Callable[[ScanArguments], ScanArguments] | None = None


def run(args: ScanArguments, backend: str | None) -> tuple[Tensor, Tensor]:
    """Run the scan by the operators: output (b, [K,] D, L) and last state (b, K, D, N).

    Raises:
        ValueError: If the backend is unknown or cannot run here.
    """
    device_type = args.u.device.type
    differentiable = torch.is_grad_enabled() and any(x.requires_grad for x in args[:9] if x is not None)
    if not torch.compiler.is_compiling() and torch.jit.is_tracing():
        reverse, follow = ([int(flag) for flag in flags] for flags in (args.reverse, args.follow))
        length = int(args.length)  # a tensor there
        args = args._replace(reverse=reverse, follow=follow, length=length)  # type: ignore[arg-type]
        return selective_scan_traced(*args, BACKENDS.in_graph(backend))
    if BACKENDS.select(backend, device_type) == REFERENCE:  # differentiated by autograd, as often as one likes
        return scan_reference(args)
    if differentiable and not _exporting():
        name = BACKENDS.select(backend, device_type, args)
        lay_out = BACKENDS[name].implementation.lay_out
        return selective_scan_fwd(*(lay_out(args) if lay_out else args), True, name)[:2]
    name = BACKENDS.in_graph(backend)
    if torch.compiler.is_compiling():
        return selective_scan_fwd(*args, False, name)[:2]
    with torch._C._AutoDispatchBelowAutograd():  # nothing to differentiate: half the time of a call
        return selective_scan_fwd(*args, False, name)[:2]


# An exported program is meant for inference; if it is trained anyway, its backward pass runs the forward pass again.
# PyTorch before 2.7 does not tell: there an export with gradients enabled names its backend.
_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)


def _serving(backend: str, args: ScanArguments) -> Implementation:
    return BACKENDS.serving(backend, args.u.device.type, args)


def _run_forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    args, (save, backend) = ScanArguments(*inputs[:_FIELDS]), inputs[_FIELDS:]
    for watch in WATCHERS:
        watch(args)
    return _serving(backend, args).forward(args, save)


def fake_forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty results of the forward operator.

    Returns:
        out: (b, [K,] D, L) in ``out_dtype``, by :func:`empty_rows`; K if stacked.
        last_state: (b, K, D, N) in the state's dtype, by :func:`empty_rows`.
        saved: What the backward pass of the backend needs, one axis of the state's dtype; empty if not ``save``.
    """
    args, (save, backend) = ScanArguments(*inputs[:_FIELDS]), inputs[_FIELDS:]
    batch, _, dim, _ = args.u.shape
    lead = (batch, args.num_paths) if args.stack else (batch,)
    saved = args.A.new_empty(_serving(backend, args).saved_size(args) if save else 0)
    out = empty_rows(args.u, (*lead, dim, args.length), args.out_dtype)
    return out, empty_rows(args.A, (batch, args.num_paths, dim, args.A.shape[-1])), saved


def _traced(inputs: Sequence[Any]) -> tuple[ScanArguments, str]:
    """Return the arguments of the traced operator as those of the other one, and the backend."""
    args = ScanArguments(*inputs[:_FIELDS])
    reverse, follow = ([bool(number) for number in numbers] for numbers in (args.reverse, args.follow))
    return args._replace(reverse=reverse, follow=follow), inputs[-1]


def _run_traced(*inputs: Any) -> tuple[Tensor, Tensor]:
    args, backend = _traced(inputs)
    return _serving(backend, args).forward(args, False)[:2]


def _fake_traced(*inputs: Any) -> tuple[Tensor, Tensor]:
    args, backend = _traced(inputs)
    return fake_forward(*args, False, backend)[:2]


def _run_backward(grad_out: Tensor, grad_last: Tensor | None, saved: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    args = ScanArguments(*inputs[:-1], out_dtype=grad_out.dtype)
    backward = _serving(inputs[-1], args).backward
    if backward is None:
        raise RuntimeError('autograd differentiates the reference, not this operator: name another backend')
    grads = backward(args, grad_out, grad_last, saved)
    absent = args.A.new_empty(0)
    return tuple(grads.get(name, absent) for name in TENSORS[:-1])


def _fake_backward(grad_out: Tensor, grad_last: Tensor | None, saved: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    A = inputs[2]
    return tuple(A.new_empty(0) if x is None else empty_rows(x, x.shape) for x in inputs[: len(TENSORS) - 1])


selective_scan_fwd = define_operator(_FORWARD, _run_forward, fake_forward)
selective_scan_bwd = define_operator(_BACKWARD, _run_backward, _fake_backward)
selective_scan_traced = define_operator(_TRACED, _run_traced, _fake_traced)


def _setup_context(ctx: Any, inputs: Sequence[Any], output: tuple[Tensor, Tensor, Tensor]) -> None:
    count = len(TENSORS)
    ctx.save_for_backward(output[2], *inputs[:count])
    ctx.flags, (ctx.out_dtype, ctx.saves, ctx.backend) = inputs[count : _FIELDS - 1], inputs[_FIELDS - 1 :]
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_out: Tensor | None, grad_last_state: Tensor | None, _: None) -> tuple[Any, ...]:
    count = _FIELDS + 2
    if grad_out is None and grad_last_state is None:
        return (None,) * count
    saved, *tensors = ctx.saved_tensors  # once: asking again fails under activation checkpointing
    args, backend = ScanArguments(*(*tensors, *ctx.flags, ctx.out_dtype)), ctx.backend
    if not ctx.saves:  # of an exported program
        backend = BACKENDS.select(backend, args.u.device.type, args)
        backend = PLAIN if backend == REFERENCE else backend  # which saves nothing
        saved = selective_scan_fwd(*(x.detach() if isinstance(x, Tensor) else x for x in args), True, backend)[2]
    if grad_out is None:  # the output was not used
        batch, _, dim, _ = args.u.shape
        lead = (batch, args.num_paths) if args.stack else (batch,)
        grad_out = args.u.new_zeros((), dtype=args.out_dtype).expand(*lead, dim, args.length)
    grads = selective_scan_bwd(grad_out, grad_last_state, saved, *args[:-1], backend)
    grads = [None if x is None else grad for grad, x in zip(grads, tensors, strict=False)]
    return (*grads, *(None,) * (count - len(grads)))


register_derivative('selective_scan_fwd', _differentiate, _setup_context)
refuse_second_derivative('selective_scan_bwd', 'selective scan')


# The convention of the field (https://github.com/state-spaces/mamba/issues/110): 9 operations for each path, batch
# element, channel, token and state, and one more a token and channel for each of the skip D and the gate z. The
# backward pass counts as twice that, and once more for the states that it computes again.
@register_flop_formula([torch.ops.mmvim.selective_scan_fwd, torch.ops.mmvim.selective_scan_traced])
def _count_forward(u, delta, A, B, C, D, z, delta_bias, initial_state, maps, map_ids, *_, out_shape=None, **__) -> int:
    batch, _, dim, length = u
    length = length if maps is None else maps[1]
    return batch * dim * length * (len(map_ids) * (9 * A[-1] + (D is not None)) + (z is not None))


@register_flop_formula(torch.ops.mmvim.selective_scan_bwd)
def _count_backward(grad_out, grad_last_state, saved, *inputs, out_shape=None, **__) -> int:
    return 3 * _count_forward(*inputs)
