"""The short convolution with SiLU in standard ONNX: products of shifted tokens, for all filters together."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from mmvim.deploy.builder import Builder


def conv_silu(graph: Builder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, left: Sequence[int]) -> ir.Value:
    """Write ``mmvim::conv_silu_fwd`` as one depthwise `Conv`.

    The filters of one input are the K outputs of each channel's group. As they see past and future to different
    extents, each is widened by zeros to the extent of all.

    Args:
        graph: Where the nodes go.
        x: (B, L, D).
        weight: (K, D, I).
        bias: (K, D) or None.
        left: Number of past tokens that each filter sees.

    Returns:
        (B, K, L, D).
    """
    filters, channels, taps = (int(size) for size in weight.shape)
    past, future = max(left), max(taps - 1 - n for n in left)
    weight = graph.cast(weight, x.dtype)
    rows = [graph.Gather(weight, [k], axis=0) for k in range(filters)]  # (1, D, I)
    rows = [
        graph.Pad(row, [0, 0, past - n, 0, 0, future - (taps - 1 - n)]) if past + future + 1 > taps else row
        for row, n in zip(rows, left, strict=True)
    ]
    width = past + future + 1
    wide = graph.Concat(*rows, axis=0)  # (K, D, past + 1 + future)
    wide = graph.reshape(graph.Transpose(wide, perm=[1, 0, 2]), channels * filters, 1, width)
    inputs = [graph.Transpose(x, perm=[0, 2, 1]), wide]  # (B, D, L)
    if bias is not None:
        inputs.append(graph.reshape(graph.Transpose(graph.cast(bias, x.dtype), perm=[1, 0]), -1))
    y = graph.Conv(*inputs, group=channels, kernel_shape=[width], pads=[past, future])  # (B, D K, L)
    y = graph.Mul(y, graph.Sigmoid(y))
    y = graph.reshape(y, 0, channels, filters, -1)  # (B, D, K, L)
    return graph.Transpose(y, perm=[0, 2, 3, 1])
