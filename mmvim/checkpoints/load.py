"""Loading of a file into a backbone: everything is checked before the first weight is written."""

from collections import OrderedDict
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmvim.checkpoints.by_names import by_names_options, fit_by_names
from mmvim.checkpoints.errors import CheckpointError, some
from mmvim.checkpoints.families import FAMILIES, Family, family_of, recognise
from mmvim.checkpoints.families.adapted import check_fusion
from mmvim.checkpoints.files.container import check_tensors, load_file, weights_of
from mmvim.checkpoints.files.sources import fetch
from mmvim.checkpoints.layout import Layout
from mmvim.checkpoints.naming import Sorted, sort_tensors
from mmvim.checkpoints.report import Report
from mmvim.models.backbones.base import Backbone
from mmvim.models.backbones.vit_adapter import ViTAdapter


def load_backbone(
    module: nn.Module,
    file: str,
    *,
    key: str | None = None,
    prefix: str | None = None,
    strict: bool = True,
    **options: Any,
) -> Report:
    """Fill a backbone from a published file, or leave it as it is and raise.

    Args:
        module: A backbone of mmvim, on any device.
        file: Where the file is, as for :func:`mmvim.checkpoints.read`.
        key: Key of the container. Defaults to None, see :func:`mmvim.checkpoints.read`.
        prefix: What precedes the backbone's names in the file. Defaults to None, any chain of the usual wrappers.
        strict: Also raise for tensors that have no place, and for missing weights outside the blocks. Defaults to True.
        **options: What the tensors do not reveal about the file: ``file_options`` of the backbone's family, such as
            :class:`mmvim.checkpoints.families.VimFamily`; and for every backbone ``channel_change``, what to do with a
            stem for pictures of another number of channels, 'refuse' or 'repeat', 'mean' or 'zero' (see
            :func:`mmvim.checkpoints.families.channels.change_channels`). An unknown one is an error.

    Returns:
        What became of every tensor.

    Raises:
        CheckpointError: If the file cannot be read safely or does not fit.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim import checkpoints
        >>> from mmvim.models import Vim
        >>> arch = {'embed_dims': 16, 'depth': 2}
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'model': Vim(arch).state_dict()}, file.name)
        ...     report = checkpoints.load_backbone(Vim(arch, img_size=(64, 96)), file.name)
        >>> report.resized
        {'pos_embed': '14 x 14 to 4 x 6 cells'}
    """
    kind, family = type(module).__name__, family_of(module)
    settings = by_names_options(options, kind) if family is None else family.options(options, family.file_options)
    path = fetch(file)
    container = load_file(path, file)
    _, tensors = weights_of(container, file, key)
    check_tensors(tensors, file)
    layout = recognise(tensors, file, prefix)
    if layout is not None and (family is None or layout.family != family.name):
        raise CheckpointError(
            f'{file} is a {layout.kind} of {FAMILIES[layout.family].title}, and this backbone is a {kind}',
            'give a file of its family',
            misfit=True,
        )
    if family is None:
        report, weights = fit_by_names(module, tensors, file, prefix, **settings)
    elif layout is None:
        raise CheckpointError(
            f'{file} is of another model: it holds no backbone of {family.title}, its {len(tensors)} tensors are named '
            f'{some(tensors)}',
            'give a file of this family, or the prefix',
            misfit=True,
        )
    else:
        found = sort_tensors(tensors, layout, container)
        if isinstance(module, ViTAdapter):
            if strict:
                check_fusion(found.own, layout.kind, module, file)
        elif layout.adapted:
            raise CheckpointError(
                f'{file} has a ViT-Adapter around its {family.title}, and this {family.title} has none',
                "build it inside of one, dict(type='mmvim.ViTAdapter', backbone=...)",
                misfit=True,
            )
        report, weights = _fit_by_family(cast(Backbone, module), family, layout, found, file, settings)
        report.note_leftovers(OrderedDict((name, tensors[name]) for name in found.rest))
    report.check(strict)
    with torch.no_grad():
        module.load_state_dict(weights, strict=False)
    return report


def _fit_by_family(
    module: Backbone, family: Family, layout: Layout, found: Sorted, file: str, settings: dict
) -> tuple[Report, OrderedDict[str, Tensor]]:
    family.check_arch(found.own, module, file)
    arch = family.arch_of(found.own)
    report = Report(file, f'{layout.kind} of {family.title}{f", arch {arch}" if arch else ""}')
    own, ours = family.fit(found.own, module, settings, report), module.state_dict()
    family.fit_channels(own, ours, settings, report)
    report.compare(ours, own)
    report.require_output_norms(layout.kind)
    report.dropped.update((name, 'another part of the model than the backbone') for name in found.parts)
    return report, OrderedDict((name, tensor) for name, tensor in own.items() if name not in report.unexpected)
