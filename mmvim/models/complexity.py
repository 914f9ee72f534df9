"""MMEngine's own counter of FLOPs knows mmvim's operators as soon as the models are imported.

``mmengine.analysis.get_model_complexity_info`` and ``FlopAnalyzer`` look operators up in a table by name. What is not
in it is left out with a warning, and a backbone would be reported without its scans. The formulas are those that the
operators register with PyTorch; as MMEngine's table wants it, a multiply-add is one, and the scan's formula, whose
operations are no multiply-adds, is taken as it is.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import mmengine.analysis.complexity_analysis as mmengine_table
import torch
from torch.utils.flop_counter import flop_registry

import mmvim.ops.bi_wkv.operators
import mmvim.ops.conv_silu.operators
import mmvim.ops.selective_scan.operators  # noqa: F401


def _sizes(value: Any) -> list[int] | None:
    """Return the shape of a traced tensor, None of anything else."""
    return value.type().sizes() if value.isCompleteTensor() else None


def _length(value: Any) -> int:
    """Return how many elements a traced list has."""
    constant = value.toIValue()
    return len(list(value.node().inputs())) if constant is None else len(constant)


def _by_formula(name: str, divisor: int = 1) -> Callable[[list[Any], list[Any]], int]:
    """Return what counts an operator of mmvim in a traced graph, by the formula that it has registered with PyTorch."""
    formula = flop_registry[getattr(torch.ops.mmvim, name)]

    def count(inputs: list[Any], outputs: list[Any]) -> int:
        # Formulas take shapes, and lists of which they need the length.
        given = [[0] * _length(x) if x.type().kind() == 'ListType' else _sizes(x) for x in inputs]
        return formula(*given) // divisor

    return count


def _output_size(inputs: list[Any], outputs: list[Any]) -> int:
    """Count what an operator returns, as MMEngine's activations of convolutions and products."""
    return prod(_sizes(outputs[0]) or [0])


def register() -> None:
    """Add mmvim's operators to MMEngine's tables, where they are not there yet.

    Examples:
        >>> from mmengine.analysis import FlopAnalyzer
        >>> import torch
        >>> from mmvim.models import VimMixer
        >>> counter = FlopAnalyzer(VimMixer(8, d_state=4), torch.zeros(1, 10, 8)).unsupported_ops_warnings(False)
        >>> counter.by_operator()['selective_scan_traced']  # 10 x 16 x (2 x (9 x 4 states + the skip) + the gate)
        12000
    """
    flops = getattr(mmengine_table, '_DEFAULT_SUPPORTED_FLOP_OPS', {})
    activations = getattr(mmengine_table, '_DEFAULT_SUPPORTED_ACT_OPS', {})
    for name, divisor in (('selective_scan_traced', 1), ('bi_wkv_fwd', 1), ('conv_silu_fwd', 2)):
        flops.setdefault(f'mmvim::{name}', _by_formula(name, divisor))
        activations.setdefault(f'mmvim::{name}', _output_size)
