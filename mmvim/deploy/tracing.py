"""Models as graphs of PyTorch's operators and mmvim's, for pictures of any number and size."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from mmvim.deploy.errors import DeployError

# What free sizes are traced at: sides that leave no map of cells of one row, and that nothing divides, so that what
# must be padded sometimes is padded in the trace. Two pictures: PyTorch before 2.8 takes a batch of 1 for a constant.
_TRACED = (101, 139)
_FIXED_ONLY = 'exports at fixed sizes only'  # of mmvim.ops.scan_paths


@contextlib.contextmanager
def free_sizes() -> Iterator[None]:
    """Let PyTorch trace sizes of 1 as it traces others, inside the block.

    By default `torch.compile` and `torch.export` take a size of 1 for a constant, whether it is a batch of one picture
    or the single window of a small one, so that others need a graph of their own. Inside the block they do not, where
    PyTorch can (2.8 and newer, in its own words an experimental option). What compiles a model is its first call, not
    `torch.compile`: the call must be in the block. For models from pictures to tensors: code that asks whether a size
    is 1, such as a loss that squeezes the channel of a label map, does not get its answer.

    Examples:
        >>> import torch
        >>> from mmvim.deploy import free_sizes
        >>> model = torch.compile(torch.nn.ReLU(), dynamic=True, backend='eager')
        >>> with free_sizes():
        ...     shapes = [tuple(model(torch.randn(batch, 3, 8, 8)).shape) for batch in (2, 1)]
        >>> shapes
        [(2, 3, 8, 8), (1, 3, 8, 8)]
    """
    from torch.fx.experimental import _config

    if not hasattr(_config, 'backed_size_oblivious'):
        yield
        return
    before = _config.backed_size_oblivious
    _config.backed_size_oblivious = True
    try:
        yield
    finally:
        _config.backed_size_oblivious = before


def trace(model: nn.Module, size: tuple[int, int] | None) -> torch.export.ExportedProgram:
    """Return a model as a graph of PyTorch's operators and mmvim's.

    PyTorch asks some sizes of a trace where the answer does not matter, such as whether there is one picture when it
    looks for the memory format of a convolution's input, and has the program refuse pictures with another answer.
    These refusals are taken away: compare the program with the model at the sizes that matter.

    Args:
        model: On the CPU, in eval mode; it takes pictures (B, C, H, W).
        size: Height and width of the one picture that the graph takes; None for any number of any size.

    Raises:
        DeployError: If the model cannot be traced.

    Examples:
        >>> import torch
        >>> from mmvim.deploy.tracing import trace
        >>> type(trace(torch.nn.ReLU(), None)).__name__
        'ExportedProgram'
    """
    from mmvim.models.backbones.common import picture_channels  # here, for who loads a program may lack OpenMMLab

    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    channels = picture_channels(model)
    example = torch.randn(2, channels, *_TRACED) if size is None else torch.randn(1, channels, *size)
    shapes = (axes,) if size is None else None
    try:
        with torch.no_grad(), silence(), free_sizes():
            program = torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of any kind, from any place in the model or in PyTorch
        text = ' '.join(str(error).split())
        if _FIXED_ONLY in text:
            problem = text[: text.index(_FIXED_ONLY) + len(_FIXED_ONLY)]
            raise DeployError(problem, 'export with a fixed size (mmvim export --fixed-size H W)') from error
        raise DeployError(
            f'the model cannot be traced: {type(error).__name__}: {text[:300]}',
            'try a fixed size (mmvim export --fixed-size H W), or another size',
        ) from error
    if size is None:
        _take_any(program)
    return program


def _take_any(program: torch.export.ExportedProgram) -> None:
    """Take away the bounds of the sizes, and the questions about them that the trace has answered."""
    from torch.utils._sympy.value_ranges import ValueRanges

    for symbol, bounds in program.range_constraints.items():
        program.range_constraints[symbol] = ValueRanges(1, max(bounds.upper, 2**31 - 1))
    if hasattr(program, '_guards_code'):
        program._guards_code = []


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep to itself, inside the block, what PyTorch's exporters tell of their steps."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)
