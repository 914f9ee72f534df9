"""Load a file into a backbone: everything is settled before the first weight is written."""

import copy
import re
import warnings
from collections import Counter, OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from .container import check_finite, load_file, weights_of
from .errors import CheckpointError, some
from .families import FAMILIES, family_of, recognise
from .naming import sort_tensors
from .report import Report
from .sources import fetch

_HEADS = ('head.', 'classifier.', 'fc.', 'decode_head.', 'auxiliary_head.', 'neck.', 'rpn_head.', 'roi_head.')
_OUTPUT_NORMS = re.compile(r'(outnorm|norm)_?\w*\.')


def load_backbone(module: nn.Module, file: str, *, key: str | None = None, prefix: str | None = None,
                  strict: bool = True, **options: Any) -> Report:
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
    check_finite(tensors, file)
    family, layout = family_of(module), recognise(tensors, file, prefix)
    kind = type(module).__name__
    if layout is not None and (family is None or layout.family != family.name):
        raise CheckpointError(f'{file} is a {layout.kind} of {FAMILIES[layout.family].title}, and this backbone is a '
                              f'{kind}', 'give a file of its family', misfit=True)
    if family is None:
        if options:
            raise CheckpointError(f'{kind} has no option {next(iter(options))!r}', 'leave it out')
        report, weights = _fit_by_names(module, tensors, file, prefix)
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
            f'{some(tensors)}', 'give a file of this family, or the prefix', misfit=True)
    found = sort_tensors(tensors, layout)
    family.check_arch(found.own, module, file)
    arch = family.arch_of(found.own)
    report = Report(file, f'{layout.kind} of {family.title}{f", arch {arch}" if arch else ""}')
    settings = family.options(options, family.file_options)
    own = family.fit(found.own, module, settings, report)
    report.account(module.state_dict(), own)
    report.dropped.update((name, 'part of another model than the backbone') for name in found.parts)
    report.unexpected += found.rest
    return report, OrderedDict((name, tensor) for name, tensor in own.items() if name not in report.unexpected)


def _fit_by_names(module, tensors, file, prefix) -> tuple[Report, 'OrderedDict[str, Tensor]']:
    """A backbone of a family without a module of its own here: the file's names, after a prefix, must be the model's.

    The backbone's own hooks may rename and resize; they are tried on a copy.
    """
    own = module.state_dict()
    report = Report(file, f'weights for {type(module).__name__}')
    if prefix is None:
        # What stands before names that end like the model's; the most frequent of it is the prefix.
        heads = Counter(name[:-len(mine)] for mine in own for name in tensors
                        if name.endswith(mine) and (name == mine or name[-len(mine) - 1] == '.'))
        if not heads:
            raise CheckpointError(
                f'{file} is of another model: none of its {len(tensors)} tensors ({some(tensors)}) is named like one '
                f'of this {type(module).__name__}', 'give a file of this family, or the prefix', misfit=True)
        prefix = max(heads, key=lambda head: (heads[head], -len(head)))
    outer = prefix.removesuffix('backbone.')
    weights = OrderedDict()
    for name, tensor in tensors.items():
        bare = name.removeprefix(prefix)
        if name.startswith(prefix) and (bare in own or not bare.startswith(_HEADS)):
            weights[bare] = tensor
        elif name.removeprefix(prefix).removeprefix(outer).startswith(_HEADS):
            report.dropped[name] = 'head, no part of a backbone'
        else:
            report.unexpected.append(name)
    trial = copy.deepcopy(module)
    tried = OrderedDict(weights)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        try:
            result = trial.load_state_dict(tried, strict=False)
        except RuntimeError as error:
            result = None
            for found in re.finditer(r'size mismatch for (\S+): .*?(\(\[.*?\]\)).*?(\(\[.*?\]\))', str(error)):
                report.mismatched[found[1]] = f'{found[2]} in the file, {found[3]} in the model'
            if not report.mismatched:
                raise CheckpointError(f'{file} does not fit: {error}', 'give another file', misfit=True) from error
    if result is None:
        return report, weights
    norms = {name for name in result.missing_keys if _OUTPUT_NORMS.match(name)}
    if not any(_OUTPUT_NORMS.match(name) and name in own for name in weights):
        report.fresh.update((name, 'norm of an output, which a classifier does not have') for name in norms)
    report.missing += [name for name in result.missing_keys
                       if name not in report.fresh and not name.endswith('num_batches_tracked')]
    for name in result.unexpected_keys:
        if _OUTPUT_NORMS.match(name):
            report.dropped[name] = 'final norm, which this backbone does not have'
        else:
            report.unexpected.append(name)
    for name in own:
        if name not in result.missing_keys:
            same = name in weights and weights[name].shape == own[name].shape
            if same:
                report.used.append(name)
            else:
                report.resized[name] = 'by the backbone itself'
    return report, weights
