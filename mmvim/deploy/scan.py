"""The selective scan in standard ONNX: one `Scan` over chunks of n steps, for all paths and directions together.

What is read through a path is gathered in the order of its steps, where it lies in memory already in chunks, and what
comes out is gathered back. Steps that fill up the last chunk have delta = 0: they leave the state alone.

Shapes: b batch, K paths, L positions, T steps, n steps of a chunk, M chunks, G groups, N states, D channels;
R = b K G sequences, which the `Scan` runs side by side. A size "1|K" is 1 where all paths share a tensor.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import onnx_ir as ir

from mmvim.deploy.builder import Builder
from mmvim.deploy.scan_body import scan_body

CHUNK = 16  # steps; with fewer the runtimes' time between operations shows, with more the chunk leaves the cache


class ScanGraph:
    """Nodes of one call of ``mmvim::selective_scan_fwd``.

    Args:
        graph: Where they are written.
        args: :class:`mmvim.ops.selective_scan.arguments.ScanArguments` of values in place of tensors; ``length`` is a
            number or a value.
        chunk: Most steps of a chunk.
    """

    def __init__(self, graph: Builder, args: Any, chunk: int = CHUNK) -> None:
        self.graph, self.args = graph, args
        self.dtype = args.A.dtype
        self.paths = len(args.map_ids)
        self.channels, self.states = args.A.shape[1], args.A.shape[2]
        self.groups = max([x.shape[2] for x in (args.B, args.C) if len(x.shape) == 5], default=1)
        length = args.length
        self.length = graph.reshape(length, 1) if isinstance(length, ir.Value) else length
        self.steps = self.length if args.maps is None else graph.size(args.maps, 1)
        self.chunk = chunk
        if isinstance(self.steps, int):  # as many chunks as must be, and those as short as can be
            self.chunk = -(-self.steps // -(-self.steps // chunk))
        chunks = self.divide(self.add(self.steps, self.chunk - 1), self.chunk)
        self.padded_steps = self.multiply(chunks, self.chunk)  # M n
        self.number = self.steps_to(self.padded_steps)  # (M n,)
        self.order = self.orders()

    # Arithmetic on sizes: numbers where they are known, else int64 (1,).

    def add(self, a: Any, b: int) -> Any:
        """Return a + b."""
        return a + b if isinstance(a, int) else self.graph.Add(a, [b])

    def multiply(self, a: Any, b: int) -> Any:
        """Return a * b."""
        return a * b if isinstance(a, int) else self.graph.Mul(a, [b])

    def divide(self, a: Any, b: int) -> Any:
        """Return a // b."""
        return a // b if isinstance(a, int) else self.graph.Div(a, [b])

    def scalar(self, size: Any) -> ir.Value:
        """Return a size as int64 ()."""
        return self.graph.constant(size) if isinstance(size, int) else self.graph.reshape(size)

    def steps_to(self, end: Any) -> ir.Value:
        """Return 0, 1, .. below a size, int64."""
        return self.graph.Range(self.graph.constant(0), self.scalar(end), self.graph.constant(1))

    # The paths.

    def orders(self) -> ir.Value:
        """Return the position that each path visits at each step, int64 (K, T)."""
        graph, args = self.graph, self.args
        forward = self.steps_to(self.steps)
        rows = []
        for m, reverse in zip(args.map_ids, args.reverse, strict=True):
            row = forward if m < 0 or args.maps is None else graph.Gather(args.maps, graph.constant(m), axis=0)
            rows.append(graph.Slice(row, [-1], [-(2**63)], [0], [-1]) if reverse else row)
        return graph.Concat(*(graph.Unsqueeze(row, [0]) for row in rows), axis=0)

    @cached_property
    def missing(self) -> ir.Value:
        """Number of steps that fill up the last chunk, int64 (1,)."""
        return self.graph.Sub(self.graph.vector(self.padded_steps), self.graph.vector(self.steps))

    @cached_property
    def inside(self) -> ir.Value:
        """Which steps there are, bool (1, M n)."""
        return self.graph.Unsqueeze(self.graph.Less(self.number, self.graph.vector(self.steps)), [0])

    @cached_property
    def filled_order(self) -> ir.Value:
        """The position of each step, int64 (K, M n); -1 at those that fill up the last chunk."""
        return self.graph.Pad(self.order, self.graph.Concat([0, 0, 0], self.missing, axis=0), self.graph.constant(-1))

    @cached_property
    def present(self) -> ir.Value:
        """Which steps of a partial path are at a position, bool (K, M n)."""
        return self.graph.Greater(self.filled_order, -1)

    @cached_property
    def own_number(self) -> ir.Value:
        """The number of each step, int64 (K, M n), for tensors that are not read through a path."""
        graph = self.graph
        last = graph.Sub(graph.vector(self.steps), [1])
        return graph.Expand(graph.Min(self.number, last), [self.paths, 1])

    def read(self, x: ir.Value, own: int, size: int, follows: bool) -> ir.Value:
        """Bring a tensor into the order of the steps.

        Args:
            x: (b, own, size, columns).
            own: 1 or K.
            size: Its channels or states.
            follows: Whether it is read through the paths, so that it has L columns instead of T.

        Returns:
            (b, M, K, n, size); anything where there is no step.
        """
        graph = self.graph
        index = graph.Max(self.filled_order, 0) if follows else self.own_number  # (K, M n)
        if own > 1:  # row k begins k times its length further on
            columns = graph.vector(self.length if follows else self.steps)
            begin = graph.Mul(graph.constant([[k] for k in range(own)]), columns)
            index = graph.Add(index, begin)
        index = graph.reshape(index, self.paths, -1, self.chunk)  # (K, M, n)
        index = graph.reshape(graph.Transpose(index, perm=[1, 0, 2]), -1)  # (M K n,)
        rows = graph.Transpose(graph.cast(x, self.dtype), perm=[0, 1, 3, 2])  # (b, own, columns, size)
        rows = graph.Squeeze(rows, [1]) if own == 1 else graph.reshape(rows, 0, -1, size)  # (b, own columns, size)
        return graph.reshape(graph.Gather(rows, index, axis=1), 0, -1, self.paths, self.chunk, size)

    def only_where(self, condition: ir.Value, own: int, x: ir.Value) -> ir.Value:
        """Return x (b, M, K, n, C) where a condition (own, M n) holds, else 0."""
        graph = self.graph
        condition = graph.reshape(condition, own, -1, self.chunk, 1)  # (1|K, M, n, 1)
        return graph.Where(graph.Transpose(condition, perm=[1, 0, 2, 3]), x, graph.constant(0, self.dtype))

    # The tensors.

    def per_path(self, x: ir.Value) -> ir.Value:
        """Return (1|K, D) as (1|K, 1, D), to meet (b, M, K, n, D)."""
        return self.graph.Unsqueeze(x, [1])

    def step_sizes(self) -> ir.Value:
        """Return delta after bias and softplus, 0 where there is no step, (b, M, K, n, D)."""
        graph, args = self.graph, self.args
        delta = self.read(args.delta, args.delta.shape[1], self.channels, args.follow[1])
        if args.partial and args.follow[1]:
            delta = self.only_where(self.present, self.paths, delta)
        if args.delta_bias is not None:
            delta = graph.Add(delta, self.per_path(args.delta_bias))
        if args.delta_softplus:
            delta = graph.Softplus(delta)
        whole = isinstance(self.steps, int) and self.steps % self.chunk == 0
        return delta if whole else self.only_where(self.inside, 1, delta)

    def inputs(self) -> ir.Value:
        """Return u, 0 at padding steps, (b, M, K, n, D)."""
        args = self.args
        u = self.read(args.u, args.u.shape[1], self.channels, args.follow[0])
        return self.only_where(self.present, self.paths, u) if args.partial and args.follow[0] else u

    def projection(self, x: ir.Value, follows: bool) -> ir.Value:
        """Return B or C as the body reads it, (M, R, n, N), or, constant in time, (R, 1, N, D / G)."""
        if len(x.shape) == 3:
            return self.constant_in_time(x)
        own, size = x.shape[1], self.groups * self.states
        x = self.graph.reshape(x, 0, own, size, -1) if self.groups > 1 else self.graph.Squeeze(x, [2])
        return self.side_by_side(self.read(x, own, size, follows), self.states)

    def side_by_side(self, x: ir.Value, size: int) -> ir.Value:
        """Return (b, M, K, n, G * size) as the `Scan` reads it, (M, R, n, size)."""
        graph = self.graph
        x = graph.Transpose(x, perm=[1, 0, 2, 3, 4])  # (M, b, K, n, G * size)
        if self.groups > 1:
            x = graph.reshape(x, 0, 0, 0, 0, self.groups, size)  # (M, b, K, n, G, size)
            x = graph.reshape(graph.Transpose(x, perm=[0, 1, 2, 4, 3, 5]), 0, 0, -1, self.chunk, size)
        return graph.reshape(x, 0, -1, self.chunk, size)

    def constant_in_time(self, x: ir.Value) -> ir.Value:
        """Return (1|K, D, N) as a state of the `Scan`, (R, 1, N, D / G), or 1 in place of R."""
        graph, each = self.graph, self.channels // self.groups
        own = x.shape[0]
        x = graph.reshape(x, own, self.groups, each, self.states)  # (1|K, G, D / G, N)
        x = graph.Transpose(x, perm=[0, 1, 3, 2])  # (1|K, G, N, D / G)
        if own == self.groups == 1:
            return x
        sizes = graph.vector(self.batch(), self.paths, self.groups, self.states, each)
        return graph.reshape(graph.Expand(x, sizes), -1, 1, self.states, each)

    def batch(self) -> Any:
        """Return b."""
        return self.graph.size(self.args.u, 0)

    def initial_state(self) -> ir.Value:
        """Return the first state, (R, 1, N, D / G)."""
        graph, each = self.graph, self.channels // self.groups
        x = self.args.initial_state
        if x is None:
            sequences = self.multiply(self.batch(), self.paths * self.groups)
            return graph.Expand(graph.constant(0, self.dtype), graph.vector(sequences, 1, self.states, each))
        x = graph.reshape(graph.cast(x, self.dtype), -1, each, self.states)  # (R, D / G, N)
        return graph.Unsqueeze(graph.Transpose(x, perm=[0, 2, 1]), [1])

    # The call.

    def run(self, out_dtype: ir.DataType) -> tuple[ir.Value, ir.Value]:
        """Write the nodes; return out (b, [K,] D, L) and the last state (b, K, D, N)."""
        graph, args, each = self.graph, self.args, self.channels // self.groups
        delta, u = self.step_sizes(), self.inputs()
        states = [self.initial_state(), self.constant_in_time(args.A)]
        scanned = [self.side_by_side(x, each) for x in (delta, graph.Mul(delta, u))]
        constant_B, constant_C = (len(x.shape) == 3 for x in (args.B, args.C))
        (states if constant_B else scanned).append(self.projection(args.B, args.follow[2]))
        (states if constant_C else scanned).append(self.projection(args.C, args.follow[3]))
        *results, y = graph.node(
            'Scan',
            *states,
            *scanned,
            outputs=len(states) + 1,
            body=scan_body(self.chunk, self.states, self.dtype, constant_B, constant_C),
            num_scan_inputs=len(scanned),
        )
        for value in (*results, y):
            value.dtype = self.dtype
        y = self.step_outputs(y)  # (b, M, K, n, D)
        if args.D is not None:
            y = graph.Add(y, graph.Mul(u, self.per_path(args.D)))
        y = self.write(y)  # (b, K, L, D)
        if not args.stack:
            y = graph.Squeeze(y, [1]) if self.paths == 1 else graph.ReduceSum(y, [1], keepdims=0)
        if args.z is not None:
            z = graph.Transpose(graph.cast(args.z, self.dtype), perm=[0, 2, 1])  # (b, L, D)
            gate = graph.Mul(z, graph.Sigmoid(z))
            y = graph.Mul(y, graph.Unsqueeze(gate, [1]) if args.stack else gate)
        out = graph.Transpose(graph.cast(y, out_dtype), perm=[0, 1, 3, 2] if args.stack else [0, 2, 1])
        last = graph.Transpose(graph.Squeeze(results[0], [1]), perm=[0, 2, 1])  # (R, D / G, N)
        return out, graph.reshape(last, -1, self.paths, self.channels, self.states)

    def step_outputs(self, y: ir.Value) -> ir.Value:
        """Return (M, R, n, D / G) as (b, M, K, n, D)."""
        graph, each = self.graph, self.channels // self.groups
        if self.groups > 1:
            y = graph.reshape(y, 0, -1, self.groups, self.chunk, each)  # (M, b K, G, n, D / G)
            y = graph.reshape(graph.Transpose(y, perm=[0, 1, 3, 2, 4]), 0, -1, self.chunk, self.channels)
        y = graph.reshape(y, 0, -1, self.paths, self.chunk, self.channels)  # (M, b, K, n, D)
        return graph.Transpose(y, perm=[1, 0, 2, 3, 4])

    def write(self, y: ir.Value) -> ir.Value:
        """Bring (b, M, K, n, D) back to the positions, (b, K, L, D); 0 where no path has been."""
        graph = self.graph
        step = self.order if self.args.maps is None else self.visits()  # a reversed range is its own inverse
        chunk = graph.Div(step, self.chunk)
        place = graph.Add(graph.Mul(chunk, self.paths * self.chunk), graph.Sub(step, graph.Mul(chunk, self.chunk)))
        place = graph.Add(place, graph.constant([[k * self.chunk] for k in range(self.paths)]))
        rows = graph.reshape(y, 0, -1, self.channels)  # (b, M K n, D)
        if self.args.partial:  # positions without a step read a row of zeros behind the last chunk
            end = self.multiply(self.padded_steps, self.paths)
            place = graph.Where(graph.Less(step, 0), self.graph.vector(end), place)
            rows = graph.Pad(rows, [0, 0, 0, 0, 1, 0])
        rows = graph.Gather(rows, graph.reshape(place, -1), axis=1)  # (b, K L, D)
        return graph.reshape(rows, 0, self.paths, -1, self.channels)

    def visits(self) -> ir.Value:
        """Return the step at which each path visits each position, int64 (K, L); -1 where it does not."""
        graph = self.graph
        order = self.order
        end = self.graph.vector(self.length)
        if self.args.partial:
            order = graph.Where(graph.Less(order, 0), end, order)  # padding steps write behind the last position
        empty = graph.Expand(graph.constant(-1), graph.vector(self.paths, self.add(self.length, 1)))
        steps = graph.Expand(self.steps_to(self.steps), graph.vector(self.paths, 1))
        found = graph.ScatterElements(empty, order, steps, axis=1)
        return graph.Slice(found, [0], end, [1])
