"""FLOP formulas of the scan operators, for ``torch.utils.flop_counter.FlopCounterMode``.

The convention of the field (https://github.com/state-spaces/mamba/issues/110): 9 operations for each path, batch
element, channel, token and state, and one more a token and channel for each of the skip D and the gate z. The backward
pass counts as twice that, and once more for the states that it computes again.
"""

from collections.abc import Callable

from torch.utils.flop_counter import register_flop_formula


def count_flops(forward: Callable, backward: Callable, first_input: int) -> None:
    """Register the formulas of an operator packet and of its backward's, whose argument `first_input` is u."""

    @register_flop_formula(forward)
    def formula(u, delta, A, B, C, D, z, delta_bias, initial_state, maps, map_ids, *_, out_shape=None, **__) -> int:
        batch, _, dim, length = u
        return batch * dim * length * (len(map_ids) * (9 * A[-1] + (D is not None)) + (z is not None))

    @register_flop_formula(backward)
    def _(*inputs, out_shape=None, **kwargs) -> int:
        return 3 * formula(*inputs[first_input:])
