"""The body of the `Scan` that runs a selective scan: what it does with a chunk of n steps.

A body of one step would spend its time between operations. This one sees n steps at once: exponentials and products are
one operation each over (R, n, N, D), and only ``h = decay h + input`` is unrolled. Channels are the last axis, so that
the inner loops of both runtimes' broadcasts have D turns instead of N. What does not change from step to step, A and a
constant B or C, is handed from turn to turn as a state: OpenVINO takes no body that reads a value from around it.

Shapes: R sequences (batch elements, paths and groups), n steps, N states, D channels.
"""

from __future__ import annotations

import onnx_ir as ir

from mmvim.deploy.builder import Builder


def scan_body(steps: int, states: int, dtype: ir.DataType, constant_B: bool, constant_C: bool) -> ir.Graph:
    """Return the body of a `Scan` over chunks.

    States are h (R, 1, N, D), A (R, 1, N, D) and, where they are constant in time, B and C (R, 1, N, D); R may be 1 in
    all but the first. Read are delta and delta * u (R, n, D) and, where they are not constant, B and C (R, n, N);
    returned is y (R, n, D).

    Args:
        steps: n.
        states: N.
        dtype: Of everything.
        constant_B: Whether B is constant in time.
        constant_C: Whether C is.

    Examples:
        >>> import onnx_ir as ir
        >>> from mmvim.deploy.scan_body import scan_body
        >>> body = scan_body(4, 16, ir.DataType.FLOAT, False, False)
        >>> len(body.inputs), len(body.outputs)
        (6, 3)
    """
    body = Builder('chunk')
    h, A = body.input('h', dtype, 4), body.input('A', dtype, 4)
    kept = {name: body.input(name, dtype, 4) for name, is_kept in (('B', constant_B), ('C', constant_C)) if is_kept}
    delta, v = body.input('delta', dtype, 3), body.input('v', dtype, 3)
    read = {name: body.input(name, dtype, 3) for name in 'BC' if name not in kept}

    decay = body.Exp(body.Mul(body.Unsqueeze(delta, [2]), A))  # (R, n, N, D)
    B = kept['B'] if constant_B else body.Unsqueeze(read['B'], [3])  # (R, n, N, 1)
    entering = body.Mul(body.Unsqueeze(v, [2]), B)  # (R, n, N, D)
    all_states, state = [], h
    for a, b in zip(_steps(body, decay, steps), _steps(body, entering, steps), strict=True):
        state = body.Add(body.Mul(a, state), b)  # (R, 1, N, D)
        all_states.append(state)
    stacked = body.Concat(*all_states, axis=1) if steps > 1 else state  # (R, n, N, D)
    if constant_C:
        y = body.ReduceSum(body.Mul(kept['C'], stacked), [2], keepdims=0)  # (R, n, D)
    elif states == 1:
        y = body.Squeeze(body.Mul(body.Unsqueeze(read['C'], [3]), stacked), [2])  # (R, n, D)
    else:
        y = body.Squeeze(body.MatMul(body.Unsqueeze(read['C'], [2]), stacked), [2])  # (R, n, D)
    outputs = [body.Identity(state), *(body.Identity(x) for x in (A, *kept.values())), y]
    return ir.Graph([h, A, *kept.values(), delta, v, *read.values()], outputs, nodes=body.nodes, name=body.name)


def _steps(body: Builder, x: ir.Value, steps: int) -> list[ir.Value]:
    """Cut (R, n, N, D) into n of (R, 1, N, D)."""
    return [x] if steps == 1 else list(body.node('Split', x, outputs=steps, axis=1, num_outputs=steps))
