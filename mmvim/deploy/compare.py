"""Compare an exported model with the one that it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def picture(batch: int, size: tuple[int, int]) -> Tensor:
    """Return made-up pictures as a model sees them, normalised: coarse and fine structure, the same each time.

    Args:
        batch: Their number.
        size: Height and width.

    Returns:
        (batch, 3, H, W), of mean 0 and standard deviation 1.

    Examples:
        >>> from mmvim.deploy.compare import picture
        >>> picture(2, (32, 48)).shape
        torch.Size([2, 3, 32, 48])
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(batch, 3, *size)
    for cells in (3, 12, 48):
        noise = torch.randn(batch, 3, cells, cells, generator=generator)
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


def compare(file: str | Path, model: nn.Module, pictures: Sequence[Tensor]) -> dict[tuple[int, int], float]:
    """Run both on pictures, and return the largest difference at each size.

    Args:
        file: The exported model.
        model: The original; if it returns labels, its ``logits`` tell which pixels are decided.
        pictures: Of several sizes, (B, 3, H, W) each.

    Returns:
        By height and width, the largest difference over the output's standard deviation. Of labels it is the share of
        pixels with another one, those not counted whose two best classes are as good as equal.
    """
    running, errors = session(file), {}
    name = running.get_inputs()[0].name
    for x in pictures:
        with torch.no_grad():
            expected = model(x)
        expected = expected if isinstance(expected, (tuple, list)) else (expected,)
        found = running.run(None, {name: x.numpy()})
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
