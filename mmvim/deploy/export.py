"""Write a model as an ONNX file, check it, and compare it with the model itself before anything lies at its place."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmvim.deploy.compare import Exported, check_errors, check_sizes, chosen, compare, onnx_runner
from mmvim.deploy.drafts import check_target, replacing
from mmvim.deploy.errors import EXPORT_PACKAGES, DeployError, check_packages
from mmvim.deploy.tracing import silence, trace
from mmvim.models.backbones.common import picture_channels

OPSETS = range(18, 24)  # the first that the exporter knows, and the last that it writes
INPUT, AXES = 'image', ('batch', 'height', 'width')


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
    """Export a model of pictures (B, C, H, W), compare it with the model, and write it.

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
        pictures: Inputs (B, C, H, W) to compare with, in place of made-up ones at ``sizes``. Defaults to none.

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
    check_packages(*EXPORT_PACKAGES)
    if opset not in OPSETS:
        raise DeployError(f'opset {opset} is not supported', f'give one of {OPSETS[0]} to {OPSETS[-1]}')
    if chunk < 1:
        raise DeployError(f'chunk {chunk} is not positive', 'give a number of steps, such as 16')
    check_sizes(sizes)
    target = check_target(file, '.onnx')
    model = copy.deepcopy(model).to('cpu', torch.float32).eval()
    program = trace(model, None if dynamic else sizes[0])
    model_proto = translate(program, outputs, metadata or {}, opset, chunk, dynamic)
    with replacing(target) as draft:
        draft.write_bytes(model_proto)
        import onnx

        onnx.checker.check_model(str(draft), full_check=True)
        errors = compare(onnx_runner(draft), model, chosen(pictures, sizes, dynamic, picture_channels(model)))
        check_errors(errors, tolerance)
    return Exported(str(target), target.stat().st_size, errors)


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
        with torch.no_grad(), silence():
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
