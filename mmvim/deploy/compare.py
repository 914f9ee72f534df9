"""Compare an exported model with the one that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmvim.deploy.errors import DeployError


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


def check_sizes(sizes: Sequence[tuple[int, int]]) -> None:
    """Check sizes of pictures.

    Args:
        sizes: Heights and widths.

    Raises:
        DeployError: If there are none, or not all are positive.

    Examples:
        >>> from mmvim.deploy.compare import check_sizes
        >>> check_sizes([(32, 48)])
    """
    if not sizes or min(min(size) for size in sizes) < 1:
        raise DeployError(f'sizes {list(sizes)} are no heights and widths', 'give pairs of positive numbers')


def chosen(
    pictures: Sequence[Tensor], sizes: Sequence[tuple[int, int]], dynamic: bool, channels: int = 3
) -> list[Tensor]:
    """Return what to compare on.

    Args:
        pictures: The user's.
        sizes: Heights and widths of made-up ones, where there are none of the user's.
        dynamic: Whether the exported model takes others than one picture of the first of ``sizes``.
        channels: Of made-up ones. Defaults to 3.

    Returns:
        Pictures (B, channels, H, W).

    Examples:
        >>> from mmvim.deploy.compare import chosen
        >>> [tuple(x.shape) for x in chosen([], [(32, 48), (64, 32)], dynamic=True)]
        [(1, 3, 32, 48), (2, 3, 64, 32)]
    """
    given = list(pictures) or [picture(1 + i % 2 if dynamic else 1, size, channels) for i, size in enumerate(sizes)]
    if not dynamic:
        given = [x for x in given if x.shape[-2:] == sizes[0]] or [picture(1, sizes[0], channels)]
    return given


def check_errors(errors: dict[tuple[int, int], float], tolerance: float) -> None:
    """Check what :func:`compare` has found.

    Args:
        errors: The largest difference at each size.
        tolerance: What is let pass.

    Raises:
        DeployError: If a difference is larger, or not a number.

    Examples:
        >>> from mmvim.deploy.compare import check_errors
        >>> check_errors({(32, 48): 1e-6}, tolerance=1e-4)
    """
    worst = max(errors, key=lambda size: errors[size])
    if not errors[worst] <= tolerance:
        raise DeployError(
            f'the exported model differs from the original by {errors[worst]:.1e} of its standard deviation at '
            f'{worst[0]} x {worst[1]}, more than {tolerance:.0e}',
            'give a larger tolerance, or report it with the config',
        )


def picture(batch: int, size: tuple[int, int], channels: int = 3) -> Tensor:
    """Return made-up pictures as a model sees them, normalised: coarse and fine structure, the same each time.

    Args:
        batch: Their number.
        size: Height and width.
        channels: Defaults to 3.

    Returns:
        (batch, channels, H, W), of mean 0 and standard deviation 1.

    Examples:
        >>> from mmvim.deploy.compare import picture
        >>> picture(2, (32, 48)).shape
        torch.Size([2, 3, 32, 48])
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(batch, channels, *size)
    for cells in (3, 12, 48):
        noise = torch.randn(batch, channels, cells, cells, generator=generator)
        total += nn.functional.interpolate(noise, size, mode='bilinear')
    return (total - total.mean()) / total.std().clamp(min=1e-6)


def session(file: str | Path, threads: int | None = None):
    """Open a model in ONNX Runtime, on the CPU.

    Args:
        file: Its path.
        threads: Of an operator. Defaults to None, PyTorch's.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])


def onnx_runner(file: str | Path) -> Callable[[Tensor], list[np.ndarray]]:
    """Return what runs a file in ONNX Runtime: pictures (B, 3, H, W) in, its outputs out.

    Args:
        file: Its path.
    """
    running = session(file)
    name = running.get_inputs()[0].name
    return lambda x: running.run(None, {name: x.numpy()})


def compare(
    run: Callable[[Tensor], Sequence[np.ndarray]], model: nn.Module, pictures: Sequence[Tensor]
) -> dict[tuple[int, int], float]:
    """Run both on pictures, and return the largest difference at each size.

    Args:
        run: Runs the exported model, see :func:`onnx_runner`.
        model: The original; if it returns labels, its ``logits`` tell which pixels are decided.
        pictures: Of several sizes, (B, 3, H, W) each.

    Returns:
        By height and width, the largest difference over the output's standard deviation. Of labels it is the share of
        pixels with another one, those not counted whose two best classes are as good as equal.
    """
    errors: dict[tuple[int, int], float] = {}
    for x in pictures:
        with torch.no_grad():
            expected = model(x)
        expected = expected if isinstance(expected, (tuple, list)) else (expected,)
        found = run(x)
        worst = max(_difference(a.numpy(), b, model, x) for a, b in zip(expected, found, strict=True))
        size = (x.shape[2], x.shape[3])
        errors[size] = max(errors.get(size, 0.0), worst)
    return errors


def _difference(expected: np.ndarray, found: np.ndarray, model: nn.Module, x: Tensor) -> float:
    if expected.shape != found.shape:
        return float('inf')
    if np.issubdtype(expected.dtype, np.integer):
        with torch.no_grad():
            logits = model.logits(x)
        differs = torch.from_numpy(expected != found)
        if logits.shape[1] == 1:
            margin = (logits[:, 0].sigmoid() - model.threshold).abs()
        else:
            best = logits.topk(2, dim=1).values  # (B, 2, H, W)
            margin = best[:, 0] - best[:, 1]
        return (differs & (margin > 1e-4 * logits.std())).float().mean().item()
    spread = float(expected.std())
    return float(np.abs(expected - found).max()) / (spread if spread > 0 else 1.0)
