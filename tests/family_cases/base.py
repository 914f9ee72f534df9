"""What an entry of ``tests/families.py`` says about its family, and what entries are made of."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmvim.models import LinearReadout
from mmvim.registry import MODELS


def scaled(size: int | float | Sequence, ratio: float) -> Any:
    """A size, a pair or a list of pairs, times ``ratio``."""
    if isinstance(size, (int, float)):
        return max(1, round(size * ratio))
    return type(size)(scaled(side, ratio) for side in size)


def randomised(module: nn.Module, seed: int = 0, scale: float = 0.2) -> nn.Module:
    """The module, every weight its own random number, batch statistics included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(
                    torch.rand(value.shape, generator=generator) + 0.5
                    if name.endswith('running_var')
                    else torch.randn(value.shape, generator=generator) * scale
                )
    return module


def with_head(backbone: nn.Module, features: int) -> OrderedDict[str, torch.Tensor]:
    """The weights of a published classifier of 7 classes: the backbone's, ``head.weight`` and ``head.bias``."""
    head = randomised(LinearReadout(features, 7), 1)
    return OrderedDict(
        randomised(backbone).state_dict(), **{f'head.{name}': value for name, value in head.fc.state_dict().items()}
    )


def spoil_decay(model: nn.Module) -> None:
    """Scale the decay of every scan by 1.1."""
    found = [p for name, p in model.named_parameters() if name.endswith(('A_log', 'A_b_log', 'A_logs'))]
    assert found, 'no parameter is the logarithm of a decay'
    with torch.no_grad():
        for parameter in found:
            parameter += math.log(1.1)


@dataclass(frozen=True)
class Variant:
    """Small arguments of a backbone, beside ``arch``, with which it differs in kind.

    Attributes:
        strides: Of its outputs.
        arguments: Beside ``arch``.
        cells: The side of an output, from that of the image and the stride; rounded up unless given.
    """

    strides: tuple[int, ...]
    arguments: dict = field(default_factory=dict)
    cells: Callable[[int, int], int] = lambda side, stride: -(-side // stride)


@dataclass(frozen=True)
class Golden:
    """A recorded case, ``golden/<family>_<arch>_<name>.json``.

    Attributes:
        build: Makes the model.
        rename: The model's name of each tensor of the publisher's, None for one that it rightly lacks.
        classifier: Whether it is one.
        options: What :func:`mmvim.checkpoints.read` must be told about its file.
        arch: The architecture, where it is not the second word of the case's name.
        tolerance: Of an output, in its standard deviations.
    """

    build: Callable[[], nn.Module]
    rename: Callable[[str], str | None]
    classifier: bool = False
    options: dict = field(default_factory=dict)
    arch: str | None = None
    tolerance: float = 5e-5


@dataclass(frozen=True)
class Scan:
    """What a family's token mixers run.

    Attributes:
        operator: Its name.
        given: Its argument that autocast reaches.
        kept: Its arguments, and the 'last_state' that it returns, that stay in float32.
    """

    operator: str = 'mmvim::selective_scan_fwd'
    given: str = 'u'
    kept: tuple[str, ...] = ('A', 'D', 'delta_bias', 'last_state')


@dataclass(frozen=True)
class PublishedFile:
    """A small file as the publisher writes it: what makes its tensors, and what it is a checkpoint of."""

    weights: Callable[[], OrderedDict[str, torch.Tensor]]
    kind: str


@dataclass(frozen=True)
class Recipe:
    """Published figures of a segmentor's training."""

    lr: float
    weight_decay: float
    layer_decay: float
    batch: int


@dataclass(frozen=True)
class DetectorRecipe:
    """Figures of a detector's training.

    Attributes:
        length: In epochs, or in iterations if the recipe counts those.
        steps: After how many of them the rate drops to a tenth.
    """

    lr: float
    weight_decay: float
    batch: int
    length: int
    steps: tuple[int, ...]
    layer_decay: float = 1.0


@dataclass(frozen=True)
class ClassifierRecipe:
    """Published figures of a classifier's training.

    Attributes:
        warmup: Epochs.
        drop_path: Rate of the last block.
        side: Of the resized image before the crop.
        mesa: Whether the loss is regularised by an average of the model.
    """

    optimizer: str
    lr: float
    weight_decay: float
    batch: int
    warmup: int
    drop_path: float
    side: int
    mesa: bool = False


@dataclass(frozen=True)
class FamilyCase:
    """A family of backbones.

    Attributes:
        name: Key in ``FAMILY_CASES`` and ``mmvim.checkpoints.families.FAMILIES``, and its folder in ``configs/``.
        backbone: Its class.
        arch: A small architecture (16 to 32 channels).
        variants: Every shape that it comes in.
        tiny: Arguments of the smallest model that has every part, for images of 32 and 64 pixels.
        mixers: Configs of its token mixers, which map (B, L, 12) to the same shape.
        blocks: The blocks of a model, one after the other, as layer-wise learning rates count them.
        stages: What ``frozen_stages`` freezes, one after the other.
        undecayed: Last parts of the names of parameters that carry the mark against weight decay.
        file_arch: The architecture of ``files``.
        files: Small published files; one is called 'classifier'.
        dense: Arguments of a dense backbone that takes the classifier's file.
        not_copied: Beginnings of the names of weights that such a backbone does not take from the file as they are.
        golden: Recorded cases, by the name of their file.
        classifier: Arguments of the backbone in a published classifier.
        read_options: Arguments in a classifier's config that its file does not reveal.
        sizes: Parameters of the published ImageNet-1k classifiers in millions, and how exactly they are given.
        narrow: Makes the config of a backbone with a named architecture narrow, in place, with sizes times a ratio,
            and of few blocks if asked for; depth, outputs and switches stay. Returns the channels of its outputs.
        segmentors: Recipes of segmentors with published figures, by file.
        detectors: All recipes of detectors, by file.
        classifiers: All recipes of classifiers, by file.
        spoil: Makes the scans of a model slightly wrong.
        scan: The operator of its scans.
    """

    name: str
    backbone: type[nn.Module]
    arch: dict
    variants: dict[str, Variant]
    tiny: dict
    mixers: tuple[dict, ...]
    blocks: Callable[[Any], list[nn.Module]]
    stages: Callable[[Any], list[nn.Module]]
    undecayed: frozenset[str]
    file_arch: dict
    files: dict[str, PublishedFile]
    narrow: Callable[[dict, float, bool], list[int]]
    dense: dict = field(default_factory=dict)
    not_copied: tuple[str, ...] = ()
    golden: dict[str, Golden] = field(default_factory=dict)
    classifier: dict = field(default_factory=dict)
    read_options: tuple[str, ...] = ()
    sizes: dict[str, tuple[float, float]] = field(default_factory=dict)
    segmentors: dict[str, Recipe] = field(default_factory=dict)
    detectors: dict[str, DetectorRecipe] = field(default_factory=dict)
    classifiers: dict[str, ClassifierRecipe] = field(default_factory=dict)
    spoil: Callable[[nn.Module], None] = spoil_decay
    scan: Scan = Scan()

    @property
    def type(self) -> str:
        """What a config calls the backbone."""
        return f'mmvim.{self.backbone.__name__}'

    def config(self, variant: str, **changes: Any) -> dict:
        """Return the config of a variant."""
        return {'type': self.type, 'arch': self.arch, **self.variants[variant].arguments, **changes}

    def build(self, variant: str, **changes: Any) -> Any:
        """Build a variant through the registry, with the same weights each time."""
        torch.manual_seed(0)
        return MODELS.build(self.config(variant, **changes))

    def build_tiny(self, **changes: Any) -> Any:
        """Build the smallest model, with the same weights each time."""
        torch.manual_seed(0)
        return self.backbone(**{**self.tiny, **changes})
