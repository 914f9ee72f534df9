"""How large the states of scans become, which no output shows: a look at each call of the operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mmvim.ops.selective_scan.arguments import ScanArguments
from mmvim.ops.selective_scan.operators import BACKENDS, WATCHERS


def largest_state(args: ScanArguments, pictures: int = 1) -> Tensor:
    """Return the largest absolute value of the states of a scan, after any step that reaches a position.

    A scan whose C is 1 for one state and 0 for the others returns that state, so N scans return all of them, by
    whatever backend serves the call.

    Args:
        args: The arguments of the scan.
        pictures: How many elements of the batch are looked at, the first ones. Defaults to 1.

    Returns:
        A scalar in the state's dtype; NaN if a state is. 0 for an empty scan.

    Examples:
        >>> import torch
        >>> from mmvim.ops.selective_scan.arguments import single_path
        >>> from mmvim.ops.selective_scan.states import largest_state
        >>> u, delta = torch.ones(1, 2, 3), torch.ones(1, 2, 3)
        >>> A, B = torch.zeros(2, 4), torch.ones(1, 4, 3)  # nothing decays: the states are 1, 2, 3
        >>> largest_state(single_path(u, delta, A, B, B, None, None, None, None, False, False, None))
        tensor(3.)
    """
    first = {
        name: x[:pictures]
        for name, x in args.tensors().items()
        if name in ('u', 'delta', 'initial_state') or (name == 'B' and x.dim() == 5)
    }
    given = {**args._asdict(), **first, 'D': None, 'z': None, 'stack': True, 'out_dtype': args.A.dtype}
    args = ScanArguments(**given)
    dim, number = args.A.shape[1:]
    largest = args.A.new_zeros(())
    if args.u.numel() == 0:
        return largest
    with torch.no_grad():
        for index in range(number):
            C = args.A.new_zeros(1, dim, number)
            C[..., index] = 1
            one = args._replace(C=C)
            name = BACKENDS.select(None, args.u.device.type, one)
            state = BACKENDS[name].implementation.forward(one, False)[0]
            largest = torch.maximum(largest, state.abs().amax())  # of a NaN it is NaN
    return largest


@contextmanager
def watch_states(pictures: int = 1) -> Iterator[list[Tensor]]:
    """Note the largest state of each scan that runs as an operator in the block, as every one with gradients does.

    Args:
        pictures: How many elements of each batch are looked at, the first ones. Defaults to 1.

    Yields:
        The list that :func:`largest_state` of each call is added to. Each call costs N scans of so many pictures.

    Raises:
        ValueError: If ``pictures`` is less than 1.

    Examples:
        >>> import torch
        >>> from mmvim.ops import selective_scan
        >>> from mmvim.ops.selective_scan.states import watch_states
        >>> u, A, B = torch.ones(1, 2, 3, requires_grad=True), torch.zeros(2, 4), torch.ones(1, 4, 3)
        >>> with watch_states() as found:
        ...     _ = selective_scan(u, torch.ones(1, 2, 3), A, B, B)
        >>> found
        [tensor(3.)]
    """
    if pictures < 1:
        raise ValueError(f'pictures must be 1 or more, got {pictures}')
    found: list[Tensor] = []

    def look(args: ScanArguments) -> None:
        found.append(largest_state(args, pictures))

    WATCHERS.append(look)
    try:
        yield found
    finally:
        WATCHERS.remove(look)
