"""The bidirectional WKV in standard ONNX: the arithmetic of ``mmvim/ops/bi_wkv/plain.py``, whose loops are `Scan`s.

As there, sums over exponentials are held as ``values * exp(scale)``, and tokens are cut into S segments of n, which
take their steps together. What the segments before (or after) one hand on to it is added to all its tokens at once.

Shapes: values are (2, B, ...), of the weights alone and of the weights times v, and scales (B, ...).
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from mmvim.deploy.builder import Builder

LOWEST = -1e30  # the exponent of nothing


class Sums(NamedTuple):
    """Numbers ``values * exp(scale)``."""

    values: ir.Value
    scale: ir.Value


class Rate(NamedTuple):
    """An exponent by which sums fall off, as a sum of two numbers: the first has half the digits."""

    high: ir.Value
    low: ir.Value


def plus(graph: Builder, a: ir.Value, b: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return ``a + b`` and what it lacks for being rounded (Knuth's two-sum)."""
    total = graph.Add(a, b)
    taken = graph.Sub(total, a)
    return total, graph.Add(graph.Sub(a, graph.Sub(total, taken)), graph.Sub(b, taken))


def sweep_body(dtype: ir.DataType, rank: int) -> ir.Graph:
    """Return the body of a `Scan` over tokens or segments; ``rank`` is that of a step's scale.

    States are values, scale and the rate; read are the values and the scale of a step, returned those of the sums
    before it.
    """
    body = Builder('step')
    values, scale = body.input('values', dtype, rank + 1), body.input('scale', dtype, rank)
    rate = Rate(body.input('high', dtype, 1), body.input('low', dtype, 1))
    x, e = body.input('x', dtype, rank + 1), body.input('e', dtype, rank)
    fallen, lack = plus(body, scale, body.Neg(rate.high))
    top = body.Max(body.Sub(fallen, rate.low), e)
    left = body.Add(body.Sub(fallen, top), body.Sub(lack, rate.low))
    kept = body.Exp(body.Min(left, 1.0))  # above 0 by rounding, or where there is nothing
    total = body.Add(body.Mul(values, kept), body.Mul(x, body.Exp(body.Sub(e, top))))
    outputs = [total, top, *(body.Identity(y) for y in (*rate, values, scale))]
    return ir.Graph([values, scale, *rate, x, e], outputs, nodes=body.nodes, name=body.name)


class WKVGraph:
    """Nodes of one call of ``mmvim::bi_wkv_fwd``.

    Args:
        graph: Where they are written.
        decay, bonus: (C,), float32 or float64, of which the arithmetic is.
        k, v: (B, T, C).
        published: Whether the published kernel is reproduced.
    """

    def __init__(
        self, graph: Builder, decay: ir.Value, bonus: ir.Value, k: ir.Value, v: ir.Value, published: bool
    ) -> None:
        self.graph, self.decay, self.bonus, self.published = graph, decay, bonus, published
        self.dtype, self.channels = decay.dtype, decay.shape[0]
        self.length = graph.Shape(k, start=1, end=2)
        if published:
            self.steps = graph.Div(graph.Add(self.length, [31]), [32])
        else:
            root = graph.Ceil(graph.Sqrt(graph.Cast(self.length, to=ir.DataType.DOUBLE.value)))
            self.steps = graph.Cast(root, to=ir.DataType.INT64.value)
        self.segments = graph.Div(graph.Sub(graph.Add(self.length, self.steps), [1]), self.steps)
        count = graph.Range(graph.constant(0), graph.reshape(self.steps), graph.constant(1))
        self.number = graph.Unsqueeze(graph.cast(count, self.dtype), [1])  # (n, 1)
        ones = graph.Expand(self.real(1), graph.Shape(v))
        values = [self.cut(x) for x in (ones, graph.cast(v, self.dtype))]
        exponent = graph.Max(graph.cast(k, self.dtype), self.real(LOWEST))
        self.x = Sums(
            graph.Concat(*(graph.Unsqueeze(x, [0]) for x in values), axis=0), self.cut(exponent, LOWEST)
        )  # (2, B, S, n, C)

    def real(self, x: float) -> ir.Value:
        """Return a constant."""
        return self.graph.constant(x, self.dtype)

    def cut(self, x: ir.Value, fill: float = 0.0) -> ir.Value:
        """Return (B, T, C) as (B, S, n, C)."""
        graph = self.graph
        missing = graph.Sub(graph.Mul(self.steps, self.segments), self.length)
        x = graph.Pad(x, graph.Concat([0, 0, 0, 0], missing, [0], axis=0), self.real(fill))
        return graph.reshape(x, 0, self.segments, self.steps, self.channels)

    def rate(self, decay: ir.Value, count: ir.Value | None = None) -> Rate:
        """Return ``decay * count``, without rounding."""
        graph = self.graph
        wide = graph.Mul(decay, self.real(1 + 2 ** (12 if self.dtype == ir.DataType.FLOAT else 27)))
        high = graph.Sub(wide, graph.Sub(wide, decay))
        low = graph.Sub(decay, high)
        return Rate(high, low) if count is None else Rate(graph.Mul(high, count), graph.Mul(low, count))

    def sweep(self, x: Sums, axis: int, rate: Rate, back: bool) -> tuple[Sums, Sums]:
        """Sum along an axis of the scale: the sums before each step (after it, if back), and those at the end."""
        graph, rank = self.graph, 4 if axis == 2 else 3
        first = graph.Squeeze(graph.Slice(x.values, [0], [1], [axis + 1]), [axis + 1])
        empty = graph.Mul(first, self.real(0))
        lowest = graph.Expand(self.real(LOWEST), graph.Shape(empty, start=1))
        directions = [int(back)] * 2
        results = graph.node(
            'Scan',
            *(empty, lowest, *rate, x.values, x.scale),
            outputs=6,
            body=sweep_body(self.dtype, rank - 1),
            num_scan_inputs=2,
            scan_input_axes=[axis + 1, axis],
            scan_output_axes=[axis + 1, axis],
            scan_input_directions=directions,
            scan_output_directions=directions,
        )
        for value in results:
            value.dtype = self.dtype
        return Sums(results[4], results[5]), Sums(results[0], results[1])

    def parts(self, back: bool) -> tuple[Sums, Sums]:
        """Sum over the tokens before each one (after it, if back): in its own segment, and in others.

        The latter are as the segment's first (or last) token has them, (2, B, S, 1, C).
        """
        graph = self.graph
        own, ends = self.sweep(self.x, 2, self.rate(self.decay), back)
        begun, _ = self.sweep(ends, 1, self.rate(self.decay, graph.cast(self.steps, self.dtype)), back)
        return own, Sums(graph.Unsqueeze(begun.values, [3]), graph.Unsqueeze(begun.scale, [2]))

    def add(self, *terms: tuple[Sums, tuple[ir.Value, ...]]) -> ir.Value:
        """Add sums, each with the exponents that it is to be multiplied with; up to a factor, (2, B, S, n, C)."""
        graph = self.graph
        scales = []
        for sums, extra in terms:
            scale, lacks = sums.scale, None
            for exponent in extra:
                scale, lack = plus(graph, scale, exponent)
                lacks = lack if lacks is None else graph.Add(lacks, lack)
            scales.append((scale, lacks))
        top = graph.Max(*(scale for scale, _ in scales))
        total = None
        for (sums, _), (scale, lacks) in zip(terms, scales, strict=True):
            exponent = graph.Sub(scale, top)
            term = graph.Mul(sums.values, graph.Exp(exponent if lacks is None else graph.Add(exponent, lacks)))
            total = term if total is None else graph.Add(total, term)
        return total

    def away(self, distance: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the exponents of a distance (n, 1) from the border of the segment, (n, C)."""
        rate = self.rate(self.decay, distance)
        return self.graph.Neg(rate.high), self.graph.Neg(rate.low)

    def growing(self, x: Sums) -> Sums:
        """Return sums times 1 - exp(decay)."""
        graph, w = self.graph, self.decay
        half = graph.Tanh(graph.Mul(w, self.real(0.5)))  # exp(w) - 1 = 2 tanh(w / 2) / (1 - tanh(w / 2))
        small = graph.Div(graph.Mul(half, self.real(2)), graph.Sub(self.real(1), half))
        factor = graph.Where(graph.Less(graph.Abs(w), self.real(0.5)), small, graph.Sub(graph.Exp(w), self.real(1)))
        return Sums(graph.Mul(x.values, graph.Neg(factor)), x.scale)

    def run(self, out_dtype: ir.DataType) -> ir.Value:
        """Write the nodes; return (B, T, C)."""
        graph = self.graph
        near, others = self.parts(back=False)
        after, behind = self.parts(back=True)
        last = graph.Sub(graph.cast(self.steps, self.dtype), self.real(1))
        to_end = self.away(graph.Sub(last, self.number))
        if self.published:
            w = self.decay
            further = self.away(graph.Add(self.number, self.real(1)))  # as if one step further away
            inside = graph.cast(graph.Greater(self.number, self.real(0)), self.dtype)  # (n, 1)
            inner = Sums(graph.Mul(self.x.values, inside), self.x.scale)
            grown, _ = self.sweep(inner, 2, self.rate(graph.Neg(w)), back=False)
            grown = Sums(graph.Mul(grown.values, inside), grown.scale)
            away = graph.Neg(w)
            total = self.add(
                (near, ()),
                (others, further),
                (after, (away,)),
                (behind, (*to_end, away)),
                (self.x, (self.bonus,)),
                (self.growing(grown), (w,)),
                (self.growing(inner), ()),
            )
        else:
            total = self.add(
                (near, ()),
                (others, self.away(self.number)),
                (after, ()),
                (behind, to_end),
                (self.x, (self.bonus,)),
            )
        below, above = graph.node('Split', total, outputs=2, axis=0, num_outputs=2)  # (1, B, S, n, C)
        out = graph.Squeeze(graph.Div(above, below), [0])
        out = graph.reshape(out, 0, -1, self.channels)
        return graph.cast(graph.Slice(out, [0], self.length, [1]), out_dtype)
