"""Load a file into a backbone: everything is settled before the first weight is written."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from mmvim.checkpoints.by_names import fit_by_names
from mmvim.checkpoints.container import check_tensors, load_file, weights_of
from mmvim.checkpoints.errors import CheckpointError, some
from mmvim.checkpoints.families import FAMILIES, family_of, recognise
from mmvim.checkpoints.naming import sort_tensors
from mmvim.checkpoints.report import Report
from mmvim.checkpoints.sources import fetch


def load_backbone(
    module: nn.Module,
    file: str,
    *,
    key: str | None = None,
    prefix: str | None = None,
    strict: bool = True,
    **options: Any,
) -> Report:
    """Fill a backbone from a published file, or leave it as it is and say why not.

    Args:
        module (nn.Module): A backbone of mmvim.
        file (str): As for :func:`mmvim.checkpoints.read`.
        key (str, optional): Key of the container. Defaults to None, see :func:`mmvim.checkpoints.read`.
        prefix (str, optional): What stands before the backbone's names. Defaults to None, any row of usual wrappers.
        strict (bool): Raise also for tensors that have no place, and for missing weights outside of the blocks.
            Defaults to True.
        **options: What tensors do not tell about the file; for Vim `cls_token`, `compat`, `grid`, `stride` and
            `patch_change`, see :class:`mmvim.checkpoints.families.VimFamily`. An unknown one is an error.

    Returns:
        Report: What became of every tensor.

    Raises:
        CheckpointError: If the file cannot be read safely or does not fit.
    """
    path = fetch(file)
    _, tensors = weights_of(load_file(path, file), file, key)
    check_tensors(tensors, file)
    family, layout = family_of(module), recognise(tensors, file, prefix)
    kind = type(module).__name__
    if layout is not None and (family is None or layout.family != family.name):
        raise CheckpointError(
            f'{file} is a {layout.kind} of {FAMILIES[layout.family].title}, and this backbone is a {kind}',
            'give a file of its family',
            misfit=True,
        )
    if family is None:
        if options:
            raise CheckpointError(f'{kind} has no option {next(iter(options))!r}', 'leave it out')
        report, weights = fit_by_names(module, tensors, file, prefix)
    else:
        report, weights = _fit_by_family(module, family.name, layout, tensors, file, options)
    report.check(strict)
    with torch.no_grad():
        module.load_state_dict(weights, strict=False)
    return report


def _fit_by_family(module, name, layout, tensors, file, options) -> tuple[Report, 'OrderedDict[str, Tensor]']:
    family = FAMILIES[name]
    if layout is None:
        raise CheckpointError(
            f'{file} is of another model: it holds no backbone of {family.title}, its {len(tensors)} tensors are named '
            f'{some(tensors)}',
            'give a file of this family, or the prefix',
            misfit=True,
        )
    found = sort_tensors(tensors, layout)
    family.check_arch(found.own, module, file)
    arch = family.arch_of(found.own)
    report = Report(file, f'{layout.kind} of {family.title}{f", arch {arch}" if arch else ""}')
    settings = family.options(options, family.file_options)
    own = family.fit(found.own, module, settings, report)
    report.compare(module.state_dict(), own)
    report.require_output_norms(layout.kind)
    report.dropped.update((name, 'part of another model than the backbone') for name in found.parts)
    report.note_leftovers(OrderedDict((name, tensors[name]) for name in found.rest))
    return report, OrderedDict((name, tensor) for name, tensor in own.items() if name not in report.unexpected)
