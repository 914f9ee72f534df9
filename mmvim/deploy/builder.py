"""Write nodes of an ONNX graph: what the translations of mmvim's operators have in common."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

_NUMBER = itertools.count()  # names must differ from those of the graph around a body


class Builder:
    """Collects nodes; every standard operator is a method, whose keywords are attributes.

    Numbers and arrays among the inputs become constants: numbers of a list are int64, as shapes and axes are, and a
    float has the dtype of the first tensor among the inputs.

    Args:
        name: What the values' names begin with.

    Attributes:
        nodes: The nodes so far.

    Examples:
        >>> from mmvim.deploy.builder import Builder
        >>> graph = Builder('example')
        >>> x = graph.input('x', ir.DataType.FLOAT, 2)
        >>> y = graph.Add(graph.Transpose(x, perm=[1, 0]), 1.0)
        >>> [node.op_type for node in graph.nodes]
        ['Transpose', 'Constant', 'Add']
    """

    def __init__(self, name: str) -> None:
        self.name = f'{name}_{next(_NUMBER)}'
        self.nodes: list[ir.Node] = []
        self._constants: dict[tuple, ir.Value] = {}

    def input(self, name: str, dtype: ir.DataType, rank: int) -> ir.Value:
        """Return a value that comes from outside, of unknown sizes."""
        return ir.Value(name=f'{self.name}/{name}', type=ir.TensorType(dtype), shape=ir.Shape([None] * rank))

    def constant(self, value: Any, dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
        """Return a constant; equal ones are one."""
        array = np.asarray(value, dtype.numpy())
        key = (array.tobytes(), array.shape, dtype)
        if key not in self._constants:
            (self._constants[key],) = self.node('Constant', value=ir.tensor(array))
        return self._constants[key]

    def node(self, kind: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Sequence[ir.Value]:
        """Add a node and return its outputs."""
        dtype = next((x.dtype for x in inputs if isinstance(x, ir.Value) and x.dtype is not None), ir.DataType.INT64)
        values = [self._as_value(x, dtype) for x in inputs]
        node = ir.Node('', kind, values, attributes=ir.convenience.convert_attributes(attributes), num_outputs=outputs)
        for value in node.outputs:
            value.name = f'{self.name}/{kind}_{next(_NUMBER)}'
            value.dtype = _dtype_of(kind, values, attributes)
        self.nodes.append(node)
        return node.outputs

    def _as_value(self, x: Any, dtype: ir.DataType) -> ir.Value | None:
        if x is None or isinstance(x, ir.Value):
            return x
        return self.constant(x, ir.DataType.INT64 if isinstance(x, list) else dtype)

    def __getattr__(self, kind: str) -> Any:
        if not kind[0].isupper():
            raise AttributeError(kind)
        return lambda *inputs, **attributes: self.node(kind, *inputs, **attributes)[0]

    def cast(self, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return a value in a dtype: itself where it has it."""
        return x if x.dtype == dtype else self.Cast(x, to=dtype.value)

    def size(self, x: ir.Value, axis: int) -> ir.Value | int:
        """Return a size of a tensor: a number where it is known, else int64 (1,)."""
        known = None if x.shape is None else x.shape[axis]
        return known if isinstance(known, int) else self.Shape(x, start=axis, end=axis + 1)

    def vector(self, *sizes: ir.Value | int) -> ir.Value:
        """Return sizes, numbers or int64 (1,), as one int64 vector."""
        if all(isinstance(size, int) for size in sizes):
            return self.constant(sizes)
        return self.Concat(*([size] if isinstance(size, int) else size for size in sizes), axis=0)

    def reshape(self, x: ir.Value, *sizes: ir.Value | int) -> ir.Value:
        """Return a tensor in another shape; 0 keeps a size, one -1 is what is left."""
        return self.Reshape(x, self.vector(*sizes))


# What nodes return that is not of the dtype of their first input.
_FIXED = {'Shape': ir.DataType.INT64, 'Less': ir.DataType.BOOL, 'Greater': ir.DataType.BOOL, 'And': ir.DataType.BOOL}


def _dtype_of(kind: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Any]) -> ir.DataType | None:
    if kind in _FIXED:
        return _FIXED[kind]
    if kind == 'Constant':
        return attributes['value'].dtype
    if kind == 'ConstantOfShape':
        return attributes['value'].dtype
    if kind == 'Cast':
        return ir.DataType(attributes['to'])
    first = inputs[1 if kind == 'Where' else 0]
    return None if first is None else first.dtype
