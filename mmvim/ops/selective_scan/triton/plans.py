"""Plans of calls: what calls of one kind repeat, so that each only makes memory and fills in pointers.

What a call launches, and with which numbers, depends on the shapes, strides and dtypes of its tensors, on its flags and
on the device. The first call of a kind runs :mod:`.launches` on tensors without memory, in the place of its own, and
keeps what came out: the memory to make, the copies to take, and the launches, with their arguments in the kernel's
order. A plan holds no tensor. It is never changed, but for the compiled kernels that it remembers once they exist,
always the same; so threads may share it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from mmvim.ops.selective_scan.arguments import TENSORS, ScanArguments
from mmvim.ops.selective_scan.triton import launches
from mmvim.ops.selective_scan.triton.gradients import Gradient
from mmvim.ops.selective_scan.triton.memory import Note, recording
from mmvim.ops.triton_host.device import architecture, interpreting, processors
from mmvim.ops.triton_host.launch import Launch, Prepared

MOST_PLANS = 1024
"""Plans that are kept; the oldest makes room. A model needs two for each shape of a scan, of some kilobytes each."""

_PLANS: dict[Hashable, Plan] = {}
_LOCK = threading.Lock()
_Step = Callable[[list[Any]], object]


class Plan:
    """What one kind of pass repeats.

    Args:
        inputs: Its tensors, without memory, or None.
        notes: What was made of them.
        started: The launches.
        results: What the pass returns, views of what was made.
        gradients: What becomes of what it leaves, instead of results. Defaults to none.
        device: Where it runs.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor | None],
        notes: Sequence[Note],
        started: Sequence[Launch],
        results: Sequence[Tensor],
        gradients: dict[str, Gradient],
        device: torch.device,
    ) -> None:
        self._slots = {_memory(x): i for i, x in enumerate(inputs) if x is not None}
        self._shapes = [None if x is None else _shape(x) for x in inputs]
        self._dtypes = [None if x is None else x.dtype for x in inputs]
        self._steps: list[tuple[_Step, bool]] = []  # what fills each further slot, or, False, works in place
        self._device = device
        whole = {_memory(x): x for x in results if x.storage_offset() == 0}  # made in the shape that is returned
        whole |= {_memory(g.part): g.view(g.part) for g in gradients.values() if _is_view(g)}
        for note in notes:
            if note.source is None:
                self._add(note.result, self._maker(note, whole))
            elif note.copy is not None:
                self._copy(note, note.copy)
        self._results = [self._place(x) for x in results]
        self._gradients = {
            name: (self._place(g.part), None if _is_view(g) else g.finish) for name, g in gradients.items()
        }
        self._launches = [self._prepare(launch) for launch in started if launch.programs]

    def run(self, *inputs: Tensor | None) -> list[Any]:
        """Run a pass; return its tensors: the inputs, then what the plan has made of them."""
        tensors: list[Any] = [*inputs]
        for step, fills in self._steps:
            made = step(tensors)
            if fills:
                tensors.append(made)
        for launch in self._launches:
            launch.run(tensors)
        return tensors

    def results(self, *inputs: Tensor | None) -> list[Tensor]:
        """Run a pass that has results, and return them."""
        tensors = self.run(*inputs)
        return [tensors[place] for place in self._results]

    def gradients(self, *inputs: Tensor | None) -> dict[str, Tensor]:
        """Run a pass that leaves gradients, and return them by input."""
        tensors = self.run(*inputs)
        return {
            name: tensors[place] if finish is None else finish(tensors[place])
            for name, (place, finish) in self._gradients.items()
        }

    def _add(self, x: Tensor, step: _Step) -> int:
        """Add a step that fills a slot with what stands for a tensor, and return the slot."""
        self._steps.append((step, True))
        self._shapes.append(_shape(x))
        self._dtypes.append(x.dtype)
        slot = len(self._shapes) - 1
        self._slots.setdefault(_memory(x), slot)
        return slot

    def _maker(self, note: Note, whole: dict[int, Tensor]) -> _Step:
        """Return what makes the memory of a tensor."""
        x = whole.get(_memory(note.result), note.result)
        (shape, stride), dtype, device = _shape(x), x.dtype, self._device
        if note.clear:
            return lambda _: torch.empty_strided(shape, stride, dtype=dtype, device=device).zero_()
        return lambda _: torch.empty_strided(shape, stride, dtype=dtype, device=device)

    def _copy(self, note: Note, copy: Callable[[Tensor], object]) -> None:
        """Add what makes a copy, or changes something in place."""
        assert note.source is not None
        slot, (shape, stride) = self._place(note.source), _shape(note.source)
        as_it_is = self._shapes[slot] == (shape, stride)

        def step(tensors: list[Any]) -> object:
            return copy(tensors[slot] if as_it_is else tensors[slot].as_strided(shape, stride))

        if note.result is note.source:
            self._steps.append((step, False))
        else:
            self._add(note.result, step)

    def _place(self, x: Tensor) -> int:
        """Return the slot whose pointer is a tensor's: that of its memory, or one for a part of it."""
        slot = self._slots.get(_memory(x))
        if slot is None:
            raise RuntimeError(f'a tensor of {tuple(x.shape)} was made past memory.py, which a plan cannot repeat')
        base = self._dtypes[slot]
        assert base is not None
        start, size, dtype = x.storage_offset() * x.element_size(), x.numel() * x.element_size(), x.dtype
        if start == 0 and dtype == base and x.numel() == math.prod(self._sizes(slot)):
            return slot
        start, count = start // base.itemsize, -(-size // base.itemsize)

        def part(tensors: list[Any]) -> Tensor:
            whole = tensors[slot]
            found = whole.as_strided((count,), (1,), whole.storage_offset() + start)
            return found if dtype == base else found.view(dtype)

        return self._add(x, part)

    def _sizes(self, slot: int) -> tuple[int, ...]:
        shape = self._shapes[slot]
        assert shape is not None
        return shape[0]

    def _prepare(self, launch: Launch) -> Prepared:
        """Return a launch whose tensors are slots."""
        values = [launch.arguments[name] for name in launch.kernel.arg_names]
        pointers = [(i, self._place(x)) for i, x in enumerate(values) if isinstance(x, Tensor)]
        return Prepared(launch, values, pointers)


def _memory(x: Tensor) -> int:
    """Return what identifies a tensor's memory, even where there is none."""
    return x.untyped_storage()._cdata


def _shape(x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(x.shape), x.stride()


def _is_view(gradient: Gradient) -> bool:
    """Return whether a gradient is what the kernels leave, seen in another way."""
    return not gradient.axes and gradient.dtype == gradient.part.dtype


def forward(args: ScanArguments, save: bool) -> list[Tensor]:
    """Run the forward pass: output, last state, and what it saves; laid out as the operator says."""
    inputs: tuple[Any, ...] = args[: len(TENSORS)]
    device = args.u.device

    def prepare(inputs: Sequence[Tensor | None], args: ScanArguments) -> Plan:
        with recording() as notes:
            started, (out, last_state, saved) = launches.forward(args, save, device=device)
        out = out if args.stack else out.squeeze(1)
        results = (out.transpose(-1, -2), last_state.transpose(2, 3), saved)
        return Plan(inputs, notes, started, results, {}, device)

    return _plan_for(args, inputs, save, prepare).results(*inputs)


def backward(args: ScanArguments, grad_out: Tensor, grad_last_state: Tensor | None, saved: Tensor) -> dict[str, Tensor]:
    """Run the backward pass: gradients by name."""
    inputs: tuple[Any, ...] = (*args[: len(TENSORS)], grad_out, grad_last_state, saved)
    device = args.u.device

    def prepare(inputs: Sequence[Tensor | None], args: ScanArguments) -> Plan:
        grad_out, grad_last_state, saved = inputs[len(TENSORS) :]
        assert grad_out is not None and saved is not None
        with recording() as notes:
            dout = grad_out if args.stack else grad_out.unsqueeze(1)
            started, gradients = launches.backward(args, dout, grad_last_state, saved, device=device)
        return Plan(inputs, notes, started, (), gradients, device)

    return _plan_for(args, inputs, None, prepare).gradients(*inputs)


def clear() -> None:
    """Forget all plans, as tests do that change what plans are made of."""
    with _LOCK:
        _PLANS.clear()


def _plan_for(
    args: ScanArguments,
    inputs: Sequence[Tensor | None],
    save: bool | None,
    prepare: Callable[[Sequence[Tensor | None], ScanArguments], Plan],
) -> Plan:
    """Return the plan of a pass; ``save`` is None of the backward pass."""
    key = _key_of(args, inputs, save)
    plan = _PLANS.get(key)
    if plan is None:
        with _disable_current_modes():
            bare: list[Any] = [None if x is None else _without_memory(x) for x in inputs]
            plan = prepare(bare, args._replace(**dict(zip(TENSORS, bare, strict=False))))
        with _LOCK:
            while len(_PLANS) >= MOST_PLANS:
                del _PLANS[next(iter(_PLANS))]
            _PLANS[key] = plan
    return plan


def _key_of(args: ScanArguments, inputs: Sequence[Tensor | None], save: bool | None) -> Hashable:
    """Return all that a plan depends on.

    Triton compiles another kernel for pointers that are no multiples of 16, so it counts which of them are. Of memory
    that a plan makes all are.
    """
    device, pointers = args.u.device, 0
    tensors: list[Any] = []
    for x in inputs:
        if x is None:
            tensors.append(None)
        else:
            pointers |= x.data_ptr()
            tensors.append((x.shape, x.stride(), x.dtype))
    odd = tuple([x is not None and x.data_ptr() % 16 for x in inputs]) if pointers % 16 else None
    flags = (tuple(args.map_ids), tuple(args.reverse), tuple(args.follow), *args[len(TENSORS) + 3 :])
    return save, device, architecture(device), processors(device), interpreting(), odd, flags, *tensors


def _without_memory(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device='meta')
