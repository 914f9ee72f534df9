"""What `torch.onnx.export` writes for mmvim's operators: its ``custom_translation_table``."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import onnxscript.evaluator
import torch

from mmvim.deploy.aten import adaptive_average_pool, floor_divide, remainder
from mmvim.deploy.builder import Builder
from mmvim.deploy.conv_silu import conv_silu
from mmvim.deploy.scan import CHUNK, ScanGraph
from mmvim.deploy.wkv import WKVGraph
from mmvim.ops.selective_scan.arguments import ScanArguments

DTYPES = {
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
}


def selective_scan(graph: Builder, inputs: tuple, chunk: int = CHUNK) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Write ``mmvim::selective_scan_fwd``: out, last state and, of nothing saved, an empty tensor."""
    args = ScanArguments(*inputs[: len(ScanArguments._fields)])
    dtype = args.out_dtype if isinstance(args.out_dtype, ir.DataType) else DTYPES[args.out_dtype]
    out, last_state = ScanGraph(graph, args, chunk).run(dtype)
    return out, last_state, graph.constant([], args.A.dtype)


def translations(chunk: int = CHUNK) -> dict[Any, Callable]:
    """Return the table for ``torch.onnx.export(..., dynamo=True, custom_translation_table=translations())``.

    Args:
        chunk: Most steps of the scan that its body sees at once. Defaults to 16.

    Examples:
        >>> from mmvim.deploy.translate import translations
        >>> sorted(name for op in translations() if (name := str(op)).startswith('mmvim'))
        ['mmvim.bi_wkv_fwd.default', 'mmvim.conv_silu_fwd.default', 'mmvim.selective_scan_fwd.default']
    """

    def scan_fwd(*inputs: Any) -> tuple:
        return _record('scan', lambda graph: selective_scan(graph, inputs, chunk))

    def conv_fwd(x: Any, weight: Any, bias: Any, left: Any, backend: Any) -> Any:
        return _record('conv', lambda graph: conv_silu(graph, x, weight, bias, left))

    def wkv_fwd(decay: Any, bonus: Any, k: Any, v: Any, published: bool, backend: Any) -> Any:
        return _record('wkv', lambda graph: WKVGraph(graph, decay, bonus, k, v, published).run(k.dtype))

    def remainder_scalar(x: Any, other: Any) -> Any:
        return _record('remainder', lambda graph: remainder(graph, x, other))

    def floor_division(x: Any, other: Any) -> Any:
        return _record('floor', lambda graph: floor_divide(graph, x, other))

    def adaptive_pool(x: Any, output_size: Any) -> Any:
        return _record('pool', lambda graph: adaptive_average_pool(graph, x, output_size))

    ops, aten = torch.ops.mmvim, torch.ops.aten
    return {
        ops.selective_scan_fwd.default: scan_fwd,
        ops.conv_silu_fwd.default: conv_fwd,
        ops.bi_wkv_fwd.default: wkv_fwd,
        operator.floordiv: floor_division,
        aten.remainder.Scalar: remainder_scalar,
        aten._adaptive_avg_pool2d.default: adaptive_pool,
        aten.adaptive_avg_pool2d.default: adaptive_pool,
    }


def _record(name: str, write: Callable[[Builder], Any]) -> Any:
    """Add the nodes that a function writes to the graph that is being exported."""
    graph = Builder(name)
    outputs = write(graph)
    recorder: Any = onnxscript.evaluator.default()  # the exporter's, while it translates
    recorder.nodes.extend(graph.nodes)
    return outputs
