"""Make ONNX models of what a translation writes, and run them."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch

from mmvim.deploy.builder import Builder
from mmvim.deploy.scan import ScanGraph
from mmvim.deploy.translate import DTYPES
from mmvim.ops.selective_scan.arguments import TENSORS, ScanArguments

# Axes of the scan's tensors whose sizes are not known before the model runs.
FREE = {'u': (0, 3), 'delta': (0, 3), 'B': (0, 4), 'C': (0, 4), 'z': (0, 2), 'initial_state': (0,), 'maps': (1,)}


def value(name: str, x: torch.Tensor, free: tuple[int, ...] = ()) -> ir.Value:
    """An input like a tensor, of which some sizes are not known."""
    dtype = ir.DataType.from_numpy(x.numpy().dtype)
    shape = [None if axis in free else size for axis, size in enumerate(x.shape)]
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def as_model(graph: Builder, inputs: list[ir.Value], outputs: list[tuple[ir.Value, int]]) -> bytes:
    """A checked model of opset 18; outputs are given with their ranks."""
    for output, rank in outputs:
        output.shape = ir.Shape([None] * rank)
    values = [output for output, _ in outputs]
    whole = ir.Graph(inputs, values, nodes=graph.nodes, opset_imports={'': 18}, name='test')
    proto = ir.serde.serialize_model(ir.Model(whole, ir_version=10))
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


def run(model: bytes, **feed: np.ndarray) -> list[np.ndarray]:
    """Outputs in ONNX Runtime; inputs that the model does not read are left out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
    read = {x.name for x in session.get_inputs()}
    return session.run(None, {name: x for name, x in feed.items() if name in read})


def scan_model(args: ScanArguments, chunk: int, dynamic: bool) -> tuple[bytes, dict[str, np.ndarray]]:
    """The model of a scan, and what to feed it."""
    graph = Builder('scan')
    tensors = args.tensors()
    values = {}
    for name, x in tensors.items():
        constant = name in 'BC' and x.dim() == 3
        values[name] = value(name, x, FREE.get(name, ()) if dynamic and not constant else ())
    feed = {name: x.numpy() for name, x in tensors.items()}
    inputs, length = list(values.values()), args.length
    if dynamic:
        feed['length'] = np.array(args.length)
        length = value('length', torch.tensor(args.length))
        inputs.append(length)
    args = args._replace(**{name: values.get(name) for name in TENSORS}, length=length)
    out, last_state = ScanGraph(graph, args, chunk).run(DTYPES[args.out_dtype])
    return as_model(graph, inputs, [(out, 4 if args.stack else 3), (last_state, 4)]), feed


def in_double(args: ScanArguments) -> ScanArguments:
    """The arguments in float64."""
    tensors = {name: x.double() for name, x in args.tensors().items() if x.is_floating_point()}
    return args._replace(**tensors, out_dtype=torch.float64)
