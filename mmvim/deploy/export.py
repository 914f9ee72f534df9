"""Write a model as an ONNX file, check it, and compare it with the model itself before anything lies at its place."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmvim.deploy.compare import compare, picture
from mmvim.deploy.errors import EXPORT_PACKAGES, DeployError, check_packages

OPSETS = range(18, 24)  # the first that the exporter knows, and the last that it writes
INPUT, AXES = 'image', ('batch', 'height', 'width')
# What free sizes are traced at: two pictures, for a batch of 1 would be taken for a constant, and sides that leave no
# map of cells of one row, and that nothing divides, so that what must be padded sometimes is padded in the trace.
_TRACED = (2, 3, 101, 139)
_FIXED_ONLY = 'exports at fixed sizes only'  # of mmvim.ops.scan_paths


class Exported(NamedTuple):
    """What has been written.

    Attributes:
        file: Its path.
        size: In bytes.
        errors: Of each compared size (H, W), the largest difference from the model's output over that output's
            standard deviation; of labels, the share of pixels with another one.

    Examples:
        >>> from mmvim.deploy import Exported
        >>> Exported('vim.onnx', 28_000_000, {(224, 224): 1e-6}).file
        'vim.onnx'
    """

    file: str
    size: int
    errors: dict[tuple[int, int], float]


def export_onnx(
    model: nn.Module,
    file: str | os.PathLike,
    *,
    sizes: Sequence[tuple[int, int]],
    outputs: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
    dynamic: bool = True,
    opset: int = 18,
    chunk: int = 16,
    tolerance: float = 1e-4,
    pictures: Sequence[Tensor] = (),
) -> Exported:
    """Export a model of pictures (B, 3, H, W), compare it with the model, and write it.

    The model is copied to the CPU, in float32 and eval mode. Batch, height and width of the file's model are free
    unless ``dynamic`` is False. The scan becomes a standard ONNX `Scan`, so that any runtime can run it.

    Args:
        model: It returns a tensor or a tuple of tensors.
        file: Where to write; an existing file is replaced, once the new one has been found right.
        sizes: Heights and widths to compare at.
        outputs: Names of the outputs. Defaults to None, ``output`` or ``output_0``, ``output_1``, ...
        metadata: What the file is to say of itself. Defaults to None, nothing.
        dynamic: Whether batch, height and width may vary; if not, the model takes one picture of the first of
            ``sizes``. Defaults to True.
        opset: Version of the ONNX operators, 18 to 23. Defaults to 18.
        chunk: Steps of a scan that are computed at once. Defaults to 16.
        tolerance: Largest difference that is let pass, in standard deviations of an output. Defaults to 1e-4.
        pictures: Inputs (B, 3, H, W) to compare with, in place of made-up ones at ``sizes``. Defaults to none.

    Returns:
        What has been written.

    Raises:
        DeployError: If an argument is out of range, a package is missing, the model cannot be exported or the file
            cannot be written, or if the exported model differs. Nothing is left behind.

    Examples:
        >>> import tempfile, torch
        >>> from mmvim.deploy import export_onnx
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = export_onnx(torch.nn.Conv2d(3, 4, 3), f'{folder}/conv.onnx', sizes=((16, 16), (20, 12)))
        >>> max(exported.errors.values()) < 1e-4
        True
    """
    target = Path(file)
    _check(target, sizes, opset, chunk)
    model = copy.deepcopy(model).to('cpu', torch.float32).eval()
    program = trace(model, _TRACED if dynamic else (1, 3, *sizes[0]), dynamic)
    model_proto = translate(program, outputs, metadata or {}, opset, chunk, dynamic)
    given = list(pictures) or [picture(1 + i % 2 if dynamic else 1, size) for i, size in enumerate(sizes)]
    if not dynamic:
        given = [x for x in given if x.shape[-2:] == sizes[0]] or [picture(1, sizes[0])]
    with _beside(target) as draft:
        draft.write_bytes(model_proto)
        import onnx

        onnx.checker.check_model(str(draft), full_check=True)
        errors = compare(draft, model, given)
        worst = max(errors, key=lambda size: errors[size])
        if not errors[worst] <= tolerance:
            raise DeployError(
                f'the exported model differs from the original by {errors[worst]:.1e} of its standard deviation at '
                f'{worst[0]} x {worst[1]}, more than {tolerance:.0e}',
                'give a larger tolerance, or report it with the config',
            )
        os.replace(draft, target)
    return Exported(str(target), target.stat().st_size, errors)


def _check(target: Path, sizes: Sequence[tuple[int, int]], opset: int, chunk: int) -> None:
    check_packages(*EXPORT_PACKAGES)
    if opset not in OPSETS:
        raise DeployError(f'opset {opset} is not supported', f'give one of {OPSETS[0]} to {OPSETS[-1]}')
    if chunk < 1:
        raise DeployError(f'chunk {chunk} is not positive', 'give a number of steps, such as 16')
    if not sizes or min(min(size) for size in sizes) < 1:
        raise DeployError(f'sizes {list(sizes)} are no heights and widths', 'give pairs of positive numbers')
    if target.suffix != '.onnx':
        raise DeployError(f'{target} does not end in .onnx', 'give a name that does')
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise DeployError(
            f'{target} cannot be written: {target.parent} is no writable folder', 'make it, or name another'
        )
    version = tuple(int(part) for part in torch.__version__.split('.')[:2])
    if version < (2, 6):
        raise DeployError(f'PyTorch {torch.__version__} cannot export', 'install PyTorch 2.6 or newer')


def trace(model: nn.Module, shape: tuple[int, ...], dynamic: bool) -> torch.export.ExportedProgram:
    """Return a model as a graph of PyTorch's operators and mmvim's.

    Args:
        model: On the CPU, in eval mode.
        shape: Of the pictures that it is traced with, (B, 3, H, W).
        dynamic: Whether B, H and W may vary.

    Raises:
        DeployError: If it cannot be traced.

    Examples:
        >>> import torch
        >>> from mmvim.deploy.export import trace
        >>> type(trace(torch.nn.ReLU(), (2, 3, 8, 12), dynamic=True)).__name__
        'ExportedProgram'
    """
    axes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    shapes = (axes,) if dynamic else None
    try:
        with torch.no_grad(), _silence():
            return torch.export.export(model, (torch.randn(shape),), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of any kind, from any place in the model or in PyTorch
        text = ' '.join(str(error).split())
        if _FIXED_ONLY in text:
            problem = text[: text.index(_FIXED_ONLY) + len(_FIXED_ONLY)]
            raise DeployError(problem, 'export with a fixed size (mmvim export --fixed-size H W)') from error
        raise DeployError(
            f'the model cannot be traced: {type(error).__name__}: {text[:300]}',
            'try a fixed size (mmvim export --fixed-size H W), or another size',
        ) from error


def translate(
    program: torch.export.ExportedProgram,
    outputs: Sequence[str] | None,
    metadata: Mapping[str, str],
    opset: int,
    chunk: int,
    dynamic: bool,
) -> bytes:
    """Return a traced model as the contents of an ONNX file; arguments as of :func:`export_onnx`."""
    import onnx_ir as ir

    from mmvim.deploy.translate import translations

    try:
        with torch.no_grad(), _silence():
            made = torch.onnx.export(
                program,
                dynamo=True,
                custom_translation_table=translations(chunk),
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # an operator without a translation, as a rule
        while error.__cause__ is not None:
            error = error.__cause__
        raise DeployError(
            f'the model cannot be written in ONNX: {" ".join(str(error).split())[:300]}',
            'export the backbone alone, or report it with the config',
        ) from error
    model = made.model
    written = model.opset_imports['']
    if written != opset:
        raise DeployError(f'opset {opset} is not supported: the exporter wrote opset {written}', f'give {written}')
    (image,) = model.graph.inputs
    names = {}
    for axis, name in zip((0, 2, 3), AXES, strict=True):
        if dynamic:
            names[str(image.shape[axis])] = name
    image.name = INPUT
    results = list(outputs or _default_names(len(model.graph.outputs)))
    for value, name in zip(model.graph.outputs, results, strict=True):
        value.name = name
        value.shape = ir.Shape([_renamed(size, names) for size in value.shape])
    image.shape = ir.Shape([_renamed(size, names) for size in image.shape])
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    for node in model.graph.all_nodes():  # sources and stack traces of the machine that exported
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    return ir.serde.serialize_model(model).SerializeToString()


def _default_names(count: int) -> list[str]:
    return ['output'] if count == 1 else [f'output_{i}' for i in range(count)]


def _renamed(size: Any, names: Mapping[str, str]) -> int | str | None:
    """Return a size with the axes' names; None, any, where it is computed of them."""
    return size if isinstance(size, int) else names.get(str(size))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep to itself what the exporter tells of its steps."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Yield the name of a new file in the target's folder, which is gone afterwards unless it has been moved."""
    handle, name = tempfile.mkstemp(suffix='.onnx', prefix=f'.{target.stem}-', dir=target.parent)
    os.close(handle)
    os.chmod(name, 0o666 & ~_umask())
    try:
        yield Path(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
