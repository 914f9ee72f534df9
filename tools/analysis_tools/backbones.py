"""The backbones that the tools here measure: every family of mmvim in its published architectures."""

import inspect
from collections.abc import Iterable

import torch
from torch import nn

from mmvim.checkpoints.families import FAMILIES, Family

_LETTERS = {'tiny': 'T', 'small': 'S', 'base': 'B', 'large': 'L'}


def label(family: Family, arch: str) -> str:
    """Return the name of an architecture in tables, such as 'Vim-T'."""
    size = next((letter + arch.removeprefix(word) for word, letter in _LETTERS.items() if arch.startswith(word)), arch)
    return f'{family.title}-{size}'


def published(archs: Iterable[str]) -> dict[str, str]:
    """List the architectures of these names that the families have, as 'family:arch' by their labels."""
    archs = list(archs)
    return {
        label(family, arch): f'{name}:{arch}'
        for name, family in FAMILIES.items()
        for arch in archs
        if arch in family.backbone.arch_zoo
    }


def choose(text: str, names: Iterable[str]) -> dict[str, str]:
    """Choose models by what a user says of them.

    Args:
        text: A part of their names; or, separated by commas, such parts and any published architectures as
            'family:arch'.
        names: The names to choose from.

    Returns:
        By name 'family:arch' for those that the user gave so, and '' for those among ``names``.

    Raises:
        SystemExit: If something fits no model.
    """
    names = list(names)
    found: dict[str, str] = {}
    for part in text.split(',') if ':' in text else [text]:
        family, _, arch = part.partition(':')
        if arch and family in FAMILIES and arch in FAMILIES[family].backbone.arch_zoo:
            fits = {label(FAMILIES[family], arch): part}
        else:
            fits = {name: '' for name in names if part in name}
        if not fits:
            archs = (f'{name}:{arch}' for name, family in FAMILIES.items() for arch in family.backbone.arch_zoo)
            raise SystemExit(f'--models {part!r} fits none of: {", ".join([*names, *archs])}')
        found.update(fits)
    return found


def make(model: str, side: int, out_indices: tuple[int, ...] | None = None, channels: int = 3) -> nn.Module:
    """Build a backbone with random weights.

    Args:
        model: 'family:arch'.
        side: Of the images, in pixels.
        out_indices: Its outputs. Defaults to None, the backbone's own default.
        channels: Of the images. Defaults to 3.
    """
    name, _, arch = model.partition(':')
    backbone = FAMILIES[name].backbone
    settings = {} if out_indices is None else {'out_indices': out_indices}
    if 'img_size' in inspect.signature(backbone).parameters:
        settings['img_size'] = side
    if channels != 3:
        settings['in_channels'] = channels
    return backbone(arch=arch, **settings)


def dense_outputs(model: str) -> tuple[int, ...]:
    """Return the outputs that the published recipes for dense prediction take from a backbone ('family:arch')."""
    name, _, arch = model.partition(':')
    family = FAMILIES[name]
    with torch.device('meta'):
        weights = family.backbone(arch=arch).state_dict()
    options = family.options({}, (*family.file_options, *family.config_options))
    return family.config(weights, 'dense', arch, options)[0]['out_indices']
