"""PyTorch's own operators that its exporter does not write for sizes that vary."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from mmvim.deploy.builder import Builder


def remainder(graph: Builder, x: ir.Value, divisor: ir.Value | float) -> ir.Value:
    """Write ``aten::remainder.Scalar``, which has the sign of the divisor; the divisor may be a size.

    PyTorch 2.13's own translation takes no divisor that is known only when the model runs.
    """
    if isinstance(divisor, ir.Value):
        divisor = graph.Cast(divisor, to=x.dtype.value)
    if x.dtype.is_integer():
        return graph.Mod(x, divisor)
    return graph.Sub(x, graph.Mul(graph.Floor(graph.Div(x, divisor)), divisor))


def floor_divide(graph: Builder, x: ir.Value | int, divisor: ir.Value | int) -> ir.Value:
    """Write Python's ``//`` of sizes, which rounds down: also in ``-(-size // 16)``.

    PyTorch's own translation rounds towards zero, as ONNX's `Div` does.
    """
    x, divisor = (graph.constant(value) if isinstance(value, int) else value for value in (x, divisor))
    return graph.Div(graph.Sub(x, graph.Mod(x, divisor)), divisor)  # Mod has the divisor's sign


def adaptive_average_pool(graph: Builder, x: ir.Value, sizes: Sequence[int]) -> ir.Value:
    """Write ``aten::_adaptive_avg_pool2d`` of a map whose size may vary: a product with a matrix for each axis.

    Cell i of n averages the rows ``floor(i H / n)`` to ``ceil((i + 1) H / n)``, as PyTorch has it.

    Args:
        graph: Where the nodes go.
        x: (..., H, W).
        sizes: Of the output.

    Returns:
        (..., *sizes).
    """
    if list(sizes) == [1, 1]:
        return graph.ReduceMean(x, [-2, -1], keepdims=1)
    for axis, cells in ((-2, sizes[0]), (-1, sizes[1])):
        side = graph.Slice(graph.Shape(x), [axis], [axis + 1 or 2**31], [0])  # (1,)
        cell = graph.constant([[i] for i in range(cells)])  # (n, 1)
        begin = graph.Div(graph.Mul(cell, side), cells)
        end = graph.Div(graph.Add(graph.Mul(graph.Add(cell, 1), side), cells - 1), cells)
        row = graph.Range(graph.constant(0), graph.reshape(side), graph.constant(1))  # (H,)
        inside = graph.And(graph.Less(row, end), graph.Greater(row, graph.Sub(begin, 1)))  # (n, H)
        share = graph.Div(graph.cast(inside, x.dtype), graph.cast(graph.Sub(end, begin), x.dtype))
        x = graph.MatMul(share, x) if axis == -2 else graph.MatMul(x, graph.Transpose(share, perm=[1, 0]))
    return x
