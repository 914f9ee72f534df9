"""The largest state of scans, beside the recurrence written out."""

import pytest
import torch

from mmvim.ops import cross_scan, selective_scan, selective_scan_paths
from mmvim.ops.selective_scan.operators import WATCHERS
from mmvim.ops.selective_scan.states import watch_states


def problem(batch=2, dim=3, number=4, length=6, seed=0):
    torch.manual_seed(seed)
    u, delta = torch.randn(batch, dim, length), torch.randn(batch, dim, length)
    A = -torch.rand(dim, number) - 0.1
    B, C = torch.randn(batch, number, length), torch.randn(batch, number, length)
    return u.requires_grad_(), delta, A, B, C


def states_by_hand(u, delta, A, B, order, softplus, bias=0.0, start=None):
    """The largest |state| of the first picture, step by step."""
    u, delta = u[0].detach(), delta[0] + bias
    delta = torch.nn.functional.softplus(delta) if softplus else delta
    state, largest = torch.zeros_like(A) if start is None else start[0], 0.0
    for t in order:
        state = torch.exp(delta[:, t, None] * A) * state + delta[:, t, None] * B[0, :, t] * u[:, t, None]
        largest = max(largest, float(state.abs().max()))
    return largest


@pytest.mark.parametrize('backend', ['torch', 'auto'])
@pytest.mark.parametrize('reverse', [False, True])
def test_one_scan(backend, reverse):
    u, delta, A, B, C = problem()
    start = torch.randn(2, 3, 4)
    with watch_states() as found:
        out = selective_scan(
            u, delta, A, B, C, D=torch.randn(3), z=torch.randn(2, 3, 6), delta_softplus=True, reverse=reverse,
            initial_state=start, backend=backend,
        )  # fmt: skip
        out.sum().backward()  # the backward pass computes states again, and is not counted
    order = range(5, -1, -1) if reverse else range(6)
    assert len(found) == 1
    assert float(found[0]) == pytest.approx(states_by_hand(u, delta, A, B, order, True, start=start), rel=1e-5)


def test_paths_and_a_bias():
    u, delta, A, B, C = problem()
    paths = cross_scan(2, 3)
    bias = torch.randn(3)
    with watch_states() as found:
        selective_scan_paths(u, delta, A, B, C, delta_bias=bias, delta_softplus=True, paths=paths)
    columns = [0, 3, 1, 4, 2, 5]
    orders = [range(6), columns, range(5, -1, -1), columns[::-1]]
    expected = max(states_by_hand(u, delta, A, B, order, True, bias[:, None]) for order in orders)
    assert float(found[0]) == pytest.approx(expected, rel=1e-5)


def test_a_nan_is_seen_and_outputs_stay():
    u, delta, A, B, C = problem()
    quiet = selective_scan(u, delta, A, B, C, delta_softplus=True)
    with watch_states() as found:
        watched = selective_scan(u, delta, A, B, C, delta_softplus=True)
        selective_scan(u, delta, A, B * torch.nan, C, delta_softplus=True)
    assert torch.equal(quiet, watched)
    assert found[0].isfinite() and found[1].isnan()
    assert WATCHERS == []
    with pytest.raises(ValueError, match='pictures must be 1 or more, got 0'), watch_states(0):
        pass
