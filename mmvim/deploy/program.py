"""Write a model as a program of PyTorch's (`torch.export`), which runs without the code of the model, and load it."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import mmvim.ops  # noqa: F401, the operators that the programs call
from mmvim.deploy.compare import Exported, check_errors, check_sizes, chosen, compare
from mmvim.deploy.drafts import check_target, replacing
from mmvim.deploy.errors import DeployError
from mmvim.deploy.safe_program import check_program
from mmvim.deploy.tracing import silence, trace


def export_program(
    model: nn.Module,
    file: str | os.PathLike,
    *,
    sizes: Sequence[tuple[int, int]],
    metadata: Mapping[str, str] | None = None,
    dynamic: bool = True,
    tolerance: float = 1e-4,
    pictures: Sequence[Tensor] = (),
) -> Exported:
    """Export a model of pictures (B, C, H, W) for PyTorch, compare it with the model, and write it.

    The model is copied to the CPU, in float32 and eval mode. Batch, height and width are free unless ``dynamic`` is
    False, and the program can be loaded on any device. It calls mmvim's operators, but none of the model's code.

    Args:
        model: It returns a tensor or a tuple of tensors.
        file: Where to write, FILE.pt2; an existing file is replaced, once the new one has been found right.
        sizes: Heights and widths to compare at.
        metadata: What the file is to say of itself; files in it of these names. Defaults to None, nothing.
        dynamic: Whether batch, height and width may vary; if not, the program takes one picture of the first of
            ``sizes``. Defaults to True.
        tolerance: Largest difference that is let pass, in standard deviations of an output. Defaults to 1e-4.
        pictures: Inputs (B, C, H, W) to compare with, in place of made-up ones at ``sizes``. Defaults to none.

    Returns:
        What has been written.

    Raises:
        DeployError: If an argument is out of range, or the model cannot be exported or the file cannot be written, or
            if the program's outputs differ. Nothing is left behind.

    Examples:
        >>> import tempfile, torch
        >>> from mmvim.deploy import export_program, load_program
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = export_program(torch.nn.Conv2d(3, 4, 3), f'{folder}/conv.pt2', sizes=((16, 16), (20, 12)))
        ...     program = load_program(exported.file)
        >>> program(torch.randn(5, 3, 8, 9)).shape
        torch.Size([5, 4, 6, 7])
    """
    from mmvim.models.backbones.common import picture_channels  # here, for who loads a program may lack OpenMMLab

    check_sizes(sizes)
    target = check_target(file, '.pt2')
    model = copy.deepcopy(model).to('cpu', torch.float32).eval()
    program = trace(model, None if dynamic else sizes[0])
    for node in program.graph.nodes:  # which names the folders of this machine
        node.meta.pop('stack_trace', None)
    with replacing(target) as draft:
        with silence():
            torch.export.save(program, draft, extra_files=dict(metadata or {}))
        loaded = load_program(draft, trusted=True)

        def run(x: Tensor) -> list:
            with torch.no_grad():
                outputs = loaded(x)
            return [y.numpy() for y in ((outputs,) if isinstance(outputs, Tensor) else outputs)]

        errors = compare(run, model, chosen(pictures, sizes, dynamic, picture_channels(model)))
        check_errors(errors, tolerance)
    return Exported(str(target), target.stat().st_size, errors)


def load_program(file: str | os.PathLike, device: str | torch.device = 'cpu', *, trusted: bool = False) -> nn.Module:
    """Load what :func:`export_program` has written.

    PyTorch runs what a program brings: pickled objects, libraries, Python in its sizes and names. So the file is looked
    at first, and must hold tensors, plain names and calls of PyTorch's and mmvim's operators alone.

    Args:
        file: Its path.
        device: Where it is to run. Defaults to 'cpu'.
        trusted: Whether to load it whatever it holds, such as operators of other packages. Defaults to False.

    Returns:
        The program as a module: pictures (B, 3, H, W) on the device in, what the model returns out.

    Raises:
        DeployError: If it is no such file, holds what could run code, or cannot be read.

    Examples:
        >>> import tempfile, torch
        >>> from mmvim.deploy import export_program, load_program
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_program(torch.nn.ReLU(), f'{folder}/relu.pt2', sizes=((8, 8),)).size > 0
        ...     program = load_program(f'{folder}/relu.pt2', device='meta')
        True
        >>> program(torch.empty(1, 3, 8, 8, device='meta')).device
        device(type='meta')
    """
    from torch.export.passes import move_to_device_pass

    if not Path(file).is_file():
        raise DeployError(f'{file} is no file', 'name one that export_program or `mmvim export` has written')
    try:
        with silence():
            content = Path(file).read_bytes()  # once, so that what is looked at is what is loaded
            if not trusted:
                check_program(content, os.fspath(file))
            program = torch.export.load(io.BytesIO(content))
    except DeployError:
        raise
    except Exception as error:  # of any kind: it may be any file
        text = ' '.join(str(error).split())[:200]
        raise DeployError(f'{file} is no exported program: {text}', 'export the model again, to FILE.pt2') from error
    if torch.device(device) != torch.device('cpu'):
        program = move_to_device_pass(program, str(device))
    return program.module()
