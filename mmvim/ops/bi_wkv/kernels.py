"""Triton kernels of the bidirectional WKV. A program takes BLOCK_D channels of a batch element, token after token.

Names follow the rule in ``mmvim/ops/selective_scan/triton/tiles.py``; k is a key, w the decay and u the bonus here. A
sum is three values: ``a`` over the weights (or gradients), ``b`` over these times v (or the output), and ``e``, its
exponent: the sums are ``a * exp(e)`` and ``b * exp(e)``. As in ``plain.py``, e is the largest exponent in the sum, and
rounding it changes nothing. ``own``, ``rest`` and ``grown`` are what a token sees on its near side: of its own segment,
of the others, and with weights that grow. The last two are of the published kernel.
"""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1e30)
VARYING = ('length', 'segment', 'k_b', 'k_l', 'v_b', 'v_l')


@triton.jit
def locate(dim, BLOCK_D: tl.constexpr):
    """Return a program's channels (BLOCK_D,) and its batch element."""
    blocks = tl.cdiv(dim, BLOCK_D)
    return tl.program_id(0) % blocks * BLOCK_D + tl.arange(0, BLOCK_D), (tl.program_id(0) // blocks).to(tl.int64)


@triton.jit
def point_at_tokens(x_ptr, x_b, x_l, b, row, d):
    """Return a pointer to which ``t * x_l`` is added for token t of all batch elements, ``row`` being b's first one."""
    return x_ptr + (b * x_b - row * x_l) + d


@triton.jit
def load_key(k_ptr, v_ptr, k_l, v_l, t, lanes):
    """Return v and the exponent k of token t, (BLOCK_D,) each."""
    v = tl.load(v_ptr + t * v_l, mask=lanes, other=0.0).to(tl.float32)  # (BLOCK_D,)
    k = tl.load(k_ptr + t * k_l, mask=lanes, other=0.0).to(tl.float32)  # (BLOCK_D,)
    return v, tl.where(k < LOWEST, LOWEST, k)


@triton.jit
def load_sum(ptr, offset, dim, lanes):
    """Return a, b, e from three rows of scratch, (BLOCK_D,) each."""
    a = tl.load(ptr + offset, mask=lanes, other=0.0)  # (BLOCK_D,)
    b = tl.load(ptr + offset + dim, mask=lanes, other=0.0)  # (BLOCK_D,)
    e = tl.load(ptr + offset + 2 * dim, mask=lanes, other=0.0)  # (BLOCK_D,)
    return a, b, e


@triton.jit
def store_sum(ptr, offset, dim, lanes, a, b, e):
    """Write a, b, e to three rows of scratch."""
    tl.store(ptr + offset, a, mask=lanes)  # (BLOCK_D,)
    tl.store(ptr + offset + dim, b, mask=lanes)  # (BLOCK_D,)
    tl.store(ptr + offset + 2 * dim, e, mask=lanes)  # (BLOCK_D,)


@triton.jit
def plus(a, b):
    """Return a + b and what it lacks for being rounded (Knuth's two-sum)."""
    both = a + b
    taken = both - a
    return both, (a - (both - taken)) + (b - taken)


@triton.jit
def kept_by(fallen, lack, new):
    """Return the factor of numbers whose exponent was to be ``fallen + lack`` and is ``new``.

    It is above 1 by rounding only, or where there is nothing.
    """
    return tl.exp(tl.minimum((fallen - new) + lack, 1.0))


@triton.jit
def fall(a, b, e, w, x_a, x_b, x_e):
    """Let a sum fall off by exp(-w), and add x."""
    fallen, lack = plus(e, -w)
    new = tl.maximum(fallen, x_e)
    kept, added = kept_by(fallen, lack, new), tl.exp(x_e - new)
    return a * kept + x_a * added, b * kept + x_b * added, new


@triton.jit
def advance(
    own_a, own_b, own_e, rest_a, rest_b, rest_e, grown_a, grown_b, grown_e,
    w, x_a, x_b, x_e, first, ends, PUBLISHED: tl.constexpr,
):  # fmt: skip
    """Move the near side past a token x; ``first`` of its segment, ``ends`` where the next is in another one."""
    own_a, own_b, own_e = fall(own_a, own_b, own_e, w, x_a, x_b, x_e)
    if PUBLISHED:
        # At a segment's end all of them are other segments' from now on, and one step further away.
        joined = tl.where(ends, tl.maximum(rest_e, own_e), rest_e)
        kept, added = tl.exp(rest_e - joined), tl.where(ends, tl.exp(own_e - joined), 0.0)
        fallen, lack = plus(joined, -w)
        rest_e = tl.maximum(fallen, LOWEST)
        factor = kept_by(fallen, lack, rest_e)
        rest_a = (rest_a * kept + own_a * added) * factor
        rest_b = (rest_b * kept + own_b * added) * factor
        own_a, own_b, own_e = tl.where(ends, 0.0, own_a), tl.where(ends, 0.0, own_b), tl.where(ends, LOWEST, own_e)
        x_a, x_b, x_e = tl.where(first, 0.0, x_a), tl.where(first, 0.0, x_b), tl.where(first, LOWEST, x_e)
        grown_a, grown_b, grown_e = fall(grown_a, grown_b, grown_e, -w, x_a, x_b, x_e)
        grown_a, grown_b = tl.where(ends, 0.0, grown_a), tl.where(ends, 0.0, grown_b)
        grown_e = tl.where(ends, LOWEST, grown_e)
    return own_a, own_b, own_e, rest_a, rest_b, rest_e, grown_a, grown_b, grown_e


@triton.jit
def total(
    own_a, own_b, own_e, rest_a, rest_b, rest_e, grown_a, grown_b, grown_e,
    far_a, far_b, far_e, w, u, c, x_a, x_b, x_e, first, PUBLISHED: tl.constexpr,
):  # fmt: skip
    """Return all that a token x sees, itself included; c is 1 - exp(w)."""
    if PUBLISHED:
        inner_e, grown_e = tl.where(first, LOWEST, x_e), tl.where(first, LOWEST, grown_e)
        top = tl.maximum(tl.maximum(far_e - w, x_e + u), tl.maximum(inner_e, grown_e + w))
        top = tl.maximum(top, tl.maximum(own_e, rest_e))
        own, rest, far, x = tl.exp(own_e - top), tl.exp(rest_e - top), tl.exp(far_e - top - w), tl.exp(x_e - top + u)
        x += tl.where(first, 0.0, c * tl.exp(inner_e - top))
        grown = tl.where(first, 0.0, c * tl.exp(grown_e - top + w))
        a = own_a * own + rest_a * rest + far_a * far + x_a * x + grown_a * grown
        b = own_b * own + rest_b * rest + far_b * far + x_b * x + grown_b * grown
    else:
        top = tl.maximum(tl.maximum(own_e, far_e), x_e + u)
        own, far, x = tl.exp(own_e - top), tl.exp(far_e - top), tl.exp(x_e - top + u)
        a = own_a * own + far_a * far + x_a * x
        b = own_b * own + far_b * far + x_b * x
    return a, b, top


@triton.jit
def meet(r_a, r_b, r_e, x_a, x_b, x_e, extra):
    """Return where a sum of gradients meets one of inputs, times exp(extra)."""
    both, lack = plus(r_e, x_e)
    both, more = plus(both, extra)
    return (r_a * x_b - r_b * x_a) * tl.exp(both + (lack + more))


@triton.jit
def growth(w):
    """Return 1 - exp(w), to the last bits where w is near 0."""
    series = w * (1.0 + w * (1 / 2 + w * (1 / 6 + w * (1 / 24 + w * (1 / 120 + w * (1 / 720))))))
    return tl.where(tl.abs(w) < 0.25, -series, 1.0 - tl.exp(w))


@triton.jit
def sum_behind(k_ptr, v_ptr, k_l, v_l, scratch_ptr, row, length, dim, d, lanes, w, PLANES: tl.constexpr):
    """Write the sums over the tokens behind each one to the first three planes of scratch (B, T, PLANES, C)."""
    a = tl.zeros_like(w)
    b, e = a, a + LOWEST
    for i in range(0, length):
        t = row + (length - 1 - i)
        store_sum(scratch_ptr, t * PLANES * dim + d, dim, lanes, a, b, e)
        v, k = load_key(k_ptr, v_ptr, k_l, v_l, t, lanes)
        a, b, e = fall(a, b, e, w, tl.zeros_like(v) + 1.0, v, k)


@triton.jit(do_not_specialize=VARYING)
def wkv_forward(
    decay_ptr, bonus_ptr, k_ptr, v_ptr, out_ptr, scratch_ptr,
    length, dim, segment, k_b, k_l, v_b, v_l,
    PUBLISHED: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Compute out (B, T, C) from decay, bonus (C,), k and v (B, T, C); scratch (B, T, 3, C) float32.

    Channels are contiguous in k and v.
    """
    d, b = locate(dim, BLOCK_D)
    lanes, row = d < dim, b * length
    k_ptr = point_at_tokens(k_ptr, k_b, k_l, b, row, d)  # (BLOCK_D,), as v
    v_ptr = point_at_tokens(v_ptr, v_b, v_l, b, row, d)
    w = tl.load(decay_ptr + d, mask=lanes, other=0.0)  # (BLOCK_D,)
    u = tl.load(bonus_ptr + d, mask=lanes, other=0.0)  # (BLOCK_D,)
    c = growth(w)
    sum_behind(k_ptr, v_ptr, k_l, v_l, scratch_ptr, row, length, dim, d, lanes, w, 3)
    tl.debug_barrier()
    own_a = tl.zeros_like(w)
    own_b, rest_a, rest_b, grown_a, grown_b = own_a, own_a, own_a, own_a, own_a
    own_e = own_a + LOWEST
    rest_e, grown_e = own_e, own_e
    place = 0  # in the segment
    for i in range(0, length):
        t = row + i
        v, k = load_key(k_ptr, v_ptr, k_l, v_l, t, lanes)
        far_a, far_b, far_e = load_sum(scratch_ptr, t * 3 * dim + d, dim, lanes)
        one, first, ends = tl.zeros_like(v) + 1.0, place == 0, place + 1 == segment
        all_a, all_b, _ = total(
            own_a, own_b, own_e, rest_a, rest_b, rest_e, grown_a, grown_b, grown_e,
            far_a, far_b, far_e, w, u, c, one, v, k, first, PUBLISHED,
        )  # fmt: skip
        tl.store(out_ptr + t * dim + d, all_b / all_a, mask=lanes)  # (BLOCK_D,)
        own_a, own_b, own_e, rest_a, rest_b, rest_e, grown_a, grown_b, grown_e = advance(
            own_a, own_b, own_e, rest_a, rest_b, rest_e, grown_a, grown_b, grown_e, w, one, v, k, first, ends, PUBLISHED
        )
        place = tl.where(ends, 0, place + 1)


@triton.jit(do_not_specialize=VARYING)
def wkv_backward(
    decay_ptr, bonus_ptr, k_ptr, v_ptr, dout_ptr, dk_ptr, dv_ptr, ddecay_ptr, dbonus_ptr, scratch_ptr,
    length, dim, segment, k_b, k_l, v_b, v_l,
    PUBLISHED: tl.constexpr, PLANES: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Compute dk and dv (B, T, C), and shares of ddecay and dbonus (B, C); scratch (B, T, PLANES, C) float32.

    Channels are contiguous in k and v; dout is dense.

    The planes of scratch are, three each, the sums behind a token, later those of the gradients before it; the
    gradient r; ``own`` before it; and, if published, ``grown`` and ``rest``.
    """
    d, batch = locate(dim, BLOCK_D)
    lanes, row = d < dim, batch * length
    k_ptr = point_at_tokens(k_ptr, k_b, k_l, batch, row, d)  # (BLOCK_D,), as v
    v_ptr = point_at_tokens(v_ptr, v_b, v_l, batch, row, d)
    w = tl.load(decay_ptr + d, mask=lanes, other=0.0)  # (BLOCK_D,)
    u = tl.load(bonus_ptr + d, mask=lanes, other=0.0)  # (BLOCK_D,)
    c = growth(w)
    sum_behind(k_ptr, v_ptr, k_l, v_l, scratch_ptr, row, length, dim, d, lanes, w, PLANES)
    tl.debug_barrier()

    # Forward, for the gradients r: that of the output by its denominator, and its product with the output.
    own_a = tl.zeros_like(w)
    own_b, rest_a, rest_b, grown_a, grown_b = own_a, own_a, own_a, own_a, own_a
    own_e = own_a + LOWEST
    rest_e, grown_e = own_e, own_e
    before_a, before_b, before_e = own_a, own_a, own_e
    place = 0  # in the segment
    for i in range(0, length):
        t = row + i
        offset = t * PLANES * dim + d
        v, k = load_key(k_ptr, v_ptr, k_l, v_l, t, lanes)
        far_a, far_b, far_e = load_sum(scratch_ptr, offset, dim, lanes)
        one, first, ends = tl.zeros_like(v) + 1.0, place == 0, place + 1 == segment
        all_a, all_b, all_e = total(
            own_a, own_b, own_e, rest_a, rest_b, rest_e, grown_a, grown_b, grown_e,
            far_a, far_b, far_e, w, u, c, one, v, k, first, PUBLISHED,
        )  # fmt: skip
        r_a = tl.load(dout_ptr + t * dim + d, mask=lanes, other=0.0).to(tl.float32) / all_a  # (BLOCK_D,)
        r_b = r_a * (all_b / all_a)
        store_sum(scratch_ptr, offset, dim, lanes, before_a, before_b, before_e)
        store_sum(scratch_ptr, offset + 3 * dim, dim, lanes, r_a, r_b, -all_e)
        store_sum(scratch_ptr, offset + 6 * dim, dim, lanes, own_a, own_b, own_e)
        if PUBLISHED:
            store_sum(scratch_ptr, offset + 9 * dim, dim, lanes, grown_a, grown_b, grown_e)
            store_sum(scratch_ptr, offset + 12 * dim, dim, lanes, rest_a, rest_b, rest_e)
        own_a, own_b, own_e, rest_a, rest_b, rest_e, grown_a, grown_b, grown_e = advance(
            own_a, own_b, own_e, rest_a, rest_b, rest_e, grown_a, grown_b, grown_e, w, one, v, k, first, ends, PUBLISHED
        )
        before_a, before_b, before_e = fall(before_a, before_b, before_e, w, r_a, r_b, -all_e)
        place = tl.where(ends, 0, place + 1)
    tl.debug_barrier()

    # Backward, for the rest: the near side of the gradients is behind a token, the far side before it.
    own_a = tl.zeros_like(w)
    own_b, rest_a, rest_b, grown_a, grown_b = own_a, own_a, own_a, own_a, own_a
    own_e = own_a + LOWEST
    rest_e, grown_e = own_e, own_e
    far_a, far_b, far_e = own_a, own_a, own_e
    ddecay, dbonus = own_a, own_a
    for i in range(0, length):
        t = row + (length - 1 - i)
        offset = t * PLANES * dim + d
        first = (length - 1 - i) % segment == 0
        v, k = load_key(k_ptr, v_ptr, k_l, v_l, t, lanes)
        before_a, before_b, before_e = load_sum(scratch_ptr, offset, dim, lanes)
        r_a, r_b, r_e = load_sum(scratch_ptr, offset + 3 * dim, dim, lanes)
        x_a, x_b, x_e = load_sum(scratch_ptr, offset + 6 * dim, dim, lanes)
        one = tl.zeros_like(v) + 1.0
        all_a, all_b, all_e = total(
            own_a, own_b, own_e, rest_a, rest_b, rest_e, grown_a, grown_b, grown_e,
            before_a, before_b, before_e, w, u, c, r_a, r_b, r_e, first, PUBLISHED,
        )  # fmt: skip
        weight = tl.exp(k + all_e)
        dv = weight * all_a
        tl.store(dv_ptr + t * dim + d, dv, mask=lanes)  # (BLOCK_D,)
        tl.store(dk_ptr + t * dim + d, dv * v - weight * all_b, mask=lanes)  # (BLOCK_D,)
        dbonus += meet(r_a, r_b, r_e, one, v, k, u)
        if PUBLISHED:
            z_a, z_b, z_e = load_sum(scratch_ptr, offset + 9 * dim, dim, lanes)
            y_a, y_b, y_e = load_sum(scratch_ptr, offset + 12 * dim, dim, lanes)
            ddecay -= meet(own_a, own_b, own_e, x_a, x_b, x_e, -w) + meet(rest_a, rest_b, rest_e, x_a, x_b, x_e, -w)
            ddecay -= meet(own_a, own_b, own_e, y_a, y_b, y_e, -w) + meet(rest_a, rest_b, rest_e, y_a, y_b, y_e, 0.0)
            ddecay -= meet(before_a, before_b, before_e, far_a, far_b, far_e, -2 * w)
            ddecay -= meet(r_a, r_b, r_e, y_a, y_b, y_e, 0.0) + meet(r_a, r_b, r_e, far_a, far_b, far_e, -w)
            growing = c * meet(grown_a, grown_b, grown_e, z_a, z_b, z_e, 2 * w)
            growing += c * meet(r_a, r_b, r_e, z_a, z_b, z_e, w) - meet(r_a, r_b, r_e, z_a, z_b, z_e, 2 * w)
            ddecay += tl.where(first, 0.0, growing - meet(r_a, r_b, r_e, one, v, k, w))
        else:
            ddecay -= meet(own_a, own_b, own_e, x_a, x_b, x_e, -w)
            ddecay -= meet(before_a, before_b, before_e, far_a, far_b, far_e, -w)
        far_a, far_b, far_e = fall(far_a, far_b, far_e, w, one, v, k)
        own_a, own_b, own_e, rest_a, rest_b, rest_e, grown_a, grown_b, grown_e = advance(
            own_a,
            own_b,
            own_e,
            rest_a,
            rest_b,
            rest_e,
            grown_a,
            grown_b,
            grown_e,
            w,
            r_a,
            r_b,
            r_e,
            first,
            first,
            PUBLISHED,
        )
    tl.store(ddecay_ptr + batch * dim + d, ddecay, mask=lanes)  # (BLOCK_D,)
    tl.store(dbonus_ptr + batch * dim + d, dbonus, mask=lanes)  # (BLOCK_D,)
