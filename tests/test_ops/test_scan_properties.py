"""What holds of the selective scan for any input, of every backend and of the definition itself."""

from typing import NamedTuple
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from helpers import DEFINED, why_not
from hypothesis import strategies as st
from properties import EXAMPLES, FRACTIONS, LONGEST, SEEDS, assert_close, gradients, hold, numbers, pieces_of
from torch import Tensor

from mmvim.ops import ScanPath, selective_scan, selective_scan_paths
from mmvim.ops.selective_scan import plain

IN_TIME = ('u', 'delta', 'B', 'C', 'z')


class Problem(NamedTuple):
    """A scan: sizes, options, and where its numbers come from."""

    batch: int
    groups: int
    width: int  # channels of a group
    length: int
    d_state: int
    reverse: bool
    gated: bool
    seed: int

    def tensors(self, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
        """What :func:`scan` takes; another seed gives other numbers."""
        dim = self.groups * self.width
        tokens, rows = (self.batch, dim, self.length), (self.batch, self.groups, self.d_state, self.length)
        per_channel, states = {'D': (dim,), 'delta_bias': (dim,)}, {'A': (dim, self.d_state)}
        found = numbers(
            self.seed + seed, dtype, u=tokens, delta=tokens, **states, B=rows, C=rows, z=tokens, **per_channel
        )
        found['A'] = -(found['A'] * 0.5).exp()
        if not self.gated:
            del found['z']
        return found | numbers(self.seed + seed, dtype, initial_state=(self.batch, dim, self.d_state))

    def scan(self, backend: str, **tensors: Tensor) -> tuple[Tensor, Tensor]:
        """The output and the last state."""
        options = {'delta_softplus': True, 'return_last_state': True, 'reverse': self.reverse, 'backend': backend}
        return selective_scan(**tensors, **options)


PROBLEMS = st.builds(
    Problem,
    batch=st.integers(1, 2),
    groups=st.integers(1, 3),
    width=st.integers(1, 20),
    length=st.integers(1, LONGEST),
    d_state=st.integers(1, 17),
    reverse=st.booleans(),
    gated=st.booleans(),
    seed=SEEDS,
)
FACTORS = st.floats(-4, 4)


def both_close(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b)


@EXAMPLES
@DEFINED
def test_linear_in_u_and_the_initial_state(backend, dtype, examples):
    @hold(examples, p=PROBLEMS, a=FACTORS, b=FACTORS)
    def check(p, a, b):
        x, other = p.tensors(dtype), p.tensors(dtype, seed=1)
        mixed = {name: a * x[name] + b * other[name] for name in ('u', 'initial_state')}
        one, two = (p.scan(backend, **{**x, **{name: own[name] for name in mixed}}) for own in (x, other))
        both_close(p.scan(backend, **{**x, **mixed}), [a * y + b * w for y, w in zip(one, two, strict=True)])


@EXAMPLES
@DEFINED
def test_linear_in_c_and_the_skip(backend, dtype, examples):
    """And what reads the state does not change it."""

    @hold(examples, p=PROBLEMS, a=FACTORS, b=FACTORS)
    def check(p, a, b):
        x, other = p.tensors(dtype), p.tensors(dtype, seed=1)
        mixed = {name: a * x[name] + b * other[name] for name in ('C', 'D')}
        one, two = (p.scan(backend, **{**x, **{name: own[name] for name in mixed}}) for own in (x, other))
        out, last = p.scan(backend, **{**x, **mixed})
        assert_close(out, a * one[0] + b * two[0])
        assert torch.equal(last, one[1]) and torch.equal(last, two[1])


@EXAMPLES
@DEFINED
def test_a_later_start_moves_the_output(backend, dtype, examples):
    """Before the first input the state is zero, whatever delta, B, C and the gate are there; gradients move as well."""

    @hold(examples, p=PROBLEMS, wait=st.integers(1, LONGEST))
    def check(p, wait):
        x, before = p.tensors(dtype), p._replace(length=wait).tensors(dtype, seed=1)
        del x['initial_state']
        before['u'].zero_()
        silent, sounding = slice(wait), slice(wait, None)
        if p.reverse:
            silent, sounding = slice(p.length, None), slice(p.length)
        moved = {}
        for name, value in x.items():
            both = [value, before[name]] if p.reverse else [before[name], value]
            moved[name] = torch.cat(both, -1) if name in IN_TIME else value
        x['u'], moved['u'] = x['u'].requires_grad_(), moved['u'].requires_grad_()
        (out, last), (late, late_last) = p.scan(backend, **x), p.scan(backend, **moved)
        assert not late[..., silent].any()
        both_close((late[..., sounding], late_last), (out, last))
        weights = torch.linspace(-1, 1, p.length, dtype=dtype)
        (grad,) = torch.autograd.grad((out * weights).sum() + last.sum(), x['u'])
        (late_grad,) = torch.autograd.grad((late[..., sounding] * weights).sum() + late_last.sum(), moved['u'])
        assert_close(late_grad[..., sounding], grad)


@EXAMPLES
@DEFINED
def test_reverse_is_the_flipped_scan_of_the_flipped_sequence(backend, dtype, examples):
    @hold(examples, p=PROBLEMS)
    def check(p):
        x = {name: value.requires_grad_() for name, value in p.tensors(dtype).items()}
        flipped = {name: value.flip(-1) if name in IN_TIME else value for name, value in x.items()}
        out, last = p.scan(backend, **x)
        other, other_last = p._replace(reverse=not p.reverse).scan(backend, **flipped)
        both_close((other.flip(-1), other_last), (out, last))
        leaves = list(x.values())
        both_close(gradients((other.flip(-1), other_last), leaves), gradients((out, last), leaves))


@EXAMPLES
@DEFINED
def test_a_sequence_in_pieces_is_the_whole(backend, dtype, examples):
    """The state goes from one to the next, and its gradient back; pieces may be empty."""

    @hold(examples, p=PROBLEMS, fractions=FRACTIONS)
    def check(p, fractions):
        x = {name: value.requires_grad_() for name, value in p.tensors(dtype).items()}
        pieces = pieces_of(p.length, fractions)
        outputs, state = {}, x['initial_state']
        for piece in reversed(pieces) if p.reverse else pieces:
            part = {name: value[..., piece] if name in IN_TIME else value for name, value in x.items()}
            outputs[piece.start, piece.stop], state = p.scan(backend, **{**part, 'initial_state': state})
        joined = torch.cat([outputs[piece.start, piece.stop] for piece in pieces], -1), state
        whole, leaves = p.scan(backend, **x), list(x.values())
        both_close(joined, whole)
        both_close(gradients(joined, leaves), gradients(whole, leaves))


@EXAMPLES
@DEFINED
def test_constant_input_has_a_closed_form(backend, dtype, examples):
    """A geometric series: h[t] = a^t h[0] + (1 - a^t) / (1 - a) * delta B u, with a = exp(delta A)."""

    @hold(examples, p=PROBLEMS)
    def check(p):
        x = p._replace(gated=False, reverse=False).tensors(torch.float64)
        x = {name: value[..., :1].expand_as(value) if name in IN_TIME else value for name, value in x.items()}
        delta = F.softplus(x['delta'][..., :1] + x['delta_bias'][:, None])  # (b, D, 1)
        log_a = (delta * x['A'])[..., None]  # (b, D, N, 1)
        since = torch.arange(1, p.length + 1, dtype=torch.float64)
        B, C = (x[name][..., :1].repeat_interleave(p.width, 1) for name in ('B', 'C'))  # (b, D, N, 1)
        input_ = (delta * x['u'][..., :1])[:, :, None] * B
        series = torch.expm1(log_a * since) / torch.expm1(log_a)  # (b, D, N, L)
        h = torch.exp(log_a * since) * x['initial_state'][..., None] + series * input_
        expected = (h * C).sum(2) + x['D'][:, None] * x['u']
        if p.reverse:  # the same input, from the other end
            expected = expected.flip(-1)
        both_close(
            p.scan(backend, **{name: value.to(dtype) for name, value in x.items()}),
            (expected, h[..., -1]),
        )


@EXAMPLES
@DEFINED
def test_a_path_is_the_scan_of_the_permuted_sequence(backend, dtype, examples):
    @hold(examples, p=PROBLEMS)
    def check(p):
        x = p.tensors(dtype)
        del x['initial_state']
        order = torch.randperm(p.length, generator=torch.Generator().manual_seed(p.seed))
        path = ScanPath.from_index(order, p.reverse)
        own = {name: x[name][:, None] for name in ('B', 'C')}  # (b, K, G, N, L)
        along = selective_scan_paths(**{**x, **own}, delta_softplus=True, paths=[path], backend=backend)
        permuted = {name: value[..., order] if name in IN_TIME else value for name, value in x.items()}
        assert_close(along[..., order], p.scan(backend, **permuted)[0])


def whole_scan(p, backend, x):
    outputs = p.scan(backend, **x)
    return [*outputs, *gradients(outputs, list(x.values()))]


@EXAMPLES
@pytest.mark.skipif(bool(why_not('torch')), reason=why_not('torch'))
def test_any_chunk_size_gives_the_same(examples):
    """In plain PyTorch: any number of values in a chunk, and of segments that take their steps together."""

    @hold(examples, p=PROBLEMS, values=st.integers(1, 1 << 16), join=st.integers(0, 1 << 16))
    def check(p, values, join):
        x = {name: value.requires_grad_() for name, value in p.tensors(torch.float64).items()}
        expected = whole_scan(p, 'torch', x)
        with mock.patch.dict(plain.TUNING, {'cpu': (values, join)}):
            got = whole_scan(p, 'torch', x)
        for a, b in zip(got, expected, strict=True):
            assert_close(a, b)


@EXAMPLES
@pytest.mark.skipif(bool(why_not('native')), reason=why_not('native'))
def test_any_number_of_threads_gives_the_same(examples):
    """In C++: where there are more threads than channels, the sequence is cut into parts."""

    @hold(examples, p=PROBLEMS, threads=st.integers(2, 16), times=st.integers(1, 8))
    def check(p, threads, times):
        x = p._replace(length=p.length * times).tensors(torch.float32)
        x = {name: value.requires_grad_() for name, value in x.items()}
        expected, before = whole_scan(p, 'native', x), torch.get_num_threads()
        try:
            torch.set_num_threads(threads)
            got = whole_scan(p, 'native', x)
        finally:
            torch.set_num_threads(before)
        for a, b in zip(got, expected, strict=True):
            assert_close(a, b)
