"""Recorded cases in PyTorch: their tensors and images, how far an output is off, and what stands around a backbone."""

import functools
import re
from collections import OrderedDict

import numpy as np
import torch
from golden import synthetic
from torch import Tensor, nn


@functools.cache
def tensors(case: str) -> OrderedDict[str, Tensor]:
    """The publisher's tensors of a case, shared: not to be changed in place."""
    made = synthetic.checkpoint(synthetic.load(case))
    found = OrderedDict((name, torch.from_numpy(np.asarray(value))) for name, value in made.items())
    return OrderedDict((name, _tied(name, found)) for name in found)


def _tied(name: str, made: dict[str, Tensor]) -> Tensor:
    """What the recorded model had under a name.

    LocalVim's decays of a block were made of one tensor: on a CPU, where the cases were recorded, its parameters share
    their memory, and what was loaded last is in all of them. (On a GPU each has its own.)
    """
    last = re.sub(r'\.A_log_\d$', '.A_log_3', name)
    return made[last] if last == name else made[last].clone()


def image(run: dict) -> Tensor:
    """The input batch of a run."""
    return torch.from_numpy(synthetic.image(run['key'], run['input']))


def output_error(output: Tensor, recorded: dict) -> float:
    """The largest difference from the recorded values, in standard deviations of the output."""
    assert list(output.shape) == recorded['shape']
    samples = synthetic.samples(output.detach().numpy())
    return np.abs(samples - np.asarray(recorded['samples'])).max() / recorded['std']


class Classifier(nn.Module):
    """Backbone and linear head under the publishers' names."""

    def __init__(self, backbone: nn.Module, features: int, classes: int = 1000) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(features, classes)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        y = self.backbone(x)[-1]
        return (self.head(y if y.ndim == 2 else y.mean((2, 3))),)


def classifier_name(key: str) -> str:
    """A publisher's name in :class:`Classifier`."""
    return key if key.startswith('head.') else 'backbone.' + key


class Pyramid(nn.Module):
    """Vim and mmseg's Feature2Pyramid, which stands for the `fpn1..4` inside the publishers' dense backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        from mmseg.models.necks import Feature2Pyramid

        self.backbone = backbone
        self.neck = Feature2Pyramid(backbone.embed_dims, rescales=[4, 2, 1, 0.5], norm_cfg={'type': 'BN'})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.neck(self.backbone(x))


def pyramid_name(key: str) -> str | None:
    """A publisher's name in :class:`Pyramid`."""
    if key == 'norm_f.weight':
        return None  # in the file, but the published dense model never applies it
    key = key.replace('fpn1.', 'neck.upsample_4x.').replace('fpn2.', 'neck.upsample_2x.')
    return key if key.startswith('neck.') else 'backbone.' + key
