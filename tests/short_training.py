"""Short trainings of the smallest model of each family, on eight made-up pictures of four classes."""

import os
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from families import FAMILY_CASES
from torch import Tensor, nn

from mmvim.ops.backends import ENV

CLASSES = 4


class Classifier(nn.Module):
    """A backbone, the mean of its last map, and a linear layer.

    Args:
        family: Key in ``FAMILY_CASES``.
        **changes: Arguments of the backbone.
    """

    def __init__(self, family: str, **changes: object) -> None:
        super().__init__()
        self.backbone = FAMILY_CASES[family].build_tiny(**changes)
        with torch.no_grad():
            channels = self.backbone.eval()(pictures(family)[:1])[-1].shape[1]
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures to logits (B, 4)."""
        return self.head(self.backbone(x)[-1].mean((2, 3)))


class Run(NamedTuple):
    """What a training has left: the loss of every step, the model, and the steps that a gradient scaler left out."""

    losses: list[float]
    model: Classifier
    skipped: int


def pictures(family: str, cells: int = 4) -> Tensor:
    """Eight pictures, of 4 x 4 cells or tokens at a family's first stage, or so many; of fewer at the next ones."""
    side = cells * (4 if 'depths' in FAMILY_CASES[family].tiny['arch'] else 16)
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(CLASSES, 3, side, side, generator=generator)
    return classes.repeat(2, 1, 1, 1) + 0.3 * torch.randn(2 * CLASSES, 3, side, side, generator=generator)


def train(
    family: str,
    steps: int = 20,
    backend: str | None = None,
    precision: torch.dtype = torch.float32,
    perturbed: int | None = None,
    cells: int = 4,
    count: int = 2 * CLASSES,
    batch_statistics: bool = True,
    lr: float = 0.005,
) -> Run:
    """Train with SGD and momentum, stochastic depth off.

    Args:
        family: Key in ``FAMILY_CASES``.
        steps: How many.
        backend: Of every op, as the environment names it.
        precision: Of autocast; float16 with a gradient scaler.
        perturbed: A seed by which all weights are first moved by a ten-millionth of their size.
        cells: Of the pictures' sides. Autocast of bfloat16 on a CPU needs 16 of a pyramid: the gradient that PyTorch
            gives a convolution of a map of one cell reads memory that nobody has written.
        count: Of the pictures, eight at most.
        batch_statistics: Whether batch norms use those, rather than the ones that they begin with.
        lr: Learning rate.
    """
    rates = {'drop_path_rate': 0.0}
    torch.manual_seed(0)
    with mock.patch.dict(os.environ, {} if backend is None else {ENV: backend}):
        model, x = Classifier(family, **rates).train(), pictures(family, cells)[:count]
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train(batch_statistics)
        labels = torch.arange(CLASSES).repeat(2)[:count]
        if perturbed is not None:
            generator = torch.Generator().manual_seed(perturbed)
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(1 + 1e-7 * torch.randn(p.shape, generator=generator))
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        scaler = torch.amp.GradScaler('cpu', init_scale=256.0, enabled=precision == torch.float16)
        losses, skipped = [], 0
        for _ in range(steps):
            with torch.autocast('cpu', precision, enabled=precision != torch.float32):
                loss = F.cross_entropy(model(x).float(), labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            skipped += scaler.get_scale() < scale
            losses.append(loss.item())
    return Run(losses, model, skipped)
