"""Loading for backbones whose family has no module here: after a prefix, the file must use the model's own names."""

import copy
import re
import warnings
from collections import Counter, OrderedDict

import torch
from torch import Tensor, nn

from mmvim.checkpoints.errors import CheckpointError, some
from mmvim.checkpoints.families.base import fit_kernels
from mmvim.checkpoints.families.channels import CHANNEL_CHANGES
from mmvim.checkpoints.report import Report, mismatch

_HEADS = ('head.', 'classifier.', 'fc.', 'decode_head.', 'auxiliary_head.', 'neck.', 'rpn_head.', 'roi_head.')
_OUTPUT_NORMS = re.compile(r'(outnorm|norm)_?\w*\.')
# PyTorch's wording: the checkpoint's shape, then the model's.
_MISMATCH = re.compile(r'size mismatch for (\S+): .*?(\(\[.*?\]\)).*?(\(\[.*?\]\))')


def by_names_options(options: dict, kind: str) -> dict:
    """Return the options for a backbone of no family: ``channel_change`` alone.

    Args:
        options: What a user set.
        kind: The backbone's class, for messages.

    Raises:
        CheckpointError: If there is another one, or its value is none of the choices.
    """
    unknown = [name for name in options if name != 'channel_change']
    if unknown:
        raise CheckpointError(f'{kind} has no option {unknown[0]!r}', 'leave it out')
    how = options.get('channel_change', 'refuse')
    if how not in CHANNEL_CHANGES:
        raise CheckpointError(
            f'channel_change={how!r} is not one of {", ".join(map(repr, CHANNEL_CHANGES))}', 'omit it'
        )
    return {'channel_change': how}


def fit_by_names(
    module: nn.Module,
    tensors: OrderedDict[str, Tensor],
    file: str,
    prefix: str | None,
    channel_change: str = 'refuse',
) -> tuple[Report, OrderedDict[str, Tensor]]:
    """Fit the tensors of a file to a backbone that uses the same names.

    The backbone's own loading hooks may rename and resize tensors; they are tried on a copy.

    Args:
        module: The backbone; it is left as it is.
        tensors: The file's tensors by name.
        file: The file, for messages.
        prefix: What precedes the backbone's names in the file; None for the most frequent prefix.
        channel_change: What becomes of the first convolution if it reads pictures of another number of channels.
            Defaults to 'refuse'.

    Returns:
        The report, and the weights under the backbone's names.

    Raises:
        CheckpointError: If the file shares no name with the backbone, or the backbone's hooks raise.
    """
    own = module.state_dict()
    report = Report(file, f'weights for {type(module).__name__}')
    weights = _without_prefix(own, tensors, _prefix(own, tensors, module, file) if prefix is None else prefix, report)
    first = [f'{name}.weight' for name, part in module.named_modules() if isinstance(part, nn.Conv2d)][:1]
    fit_kernels(weights, own, first, channel_change, type(module).__name__, report)
    result = _try(module, weights, report)
    if result is not None:
        _compare(own, weights, *result, report)
    return report, weights


def _prefix(own: dict, tensors: dict, module: nn.Module, file: str) -> str:
    """Find what most often precedes the model's names in the file."""
    heads = Counter(
        name[: -len(mine)]
        for mine in own
        for name in tensors
        if name.endswith(mine) and (name == mine or name[-len(mine) - 1] == '.')
    )
    if not heads:
        raise CheckpointError(
            f'{file} is of another model: none of its {len(tensors)} tensors ({some(tensors)}) is named like one '
            f'of this {type(module).__name__}',
            'give a file of this family, or the prefix',
            misfit=True,
        )
    return max(heads, key=lambda head: (heads[head], -len(head)))


def _without_prefix(own: dict, tensors: dict, prefix: str, report: Report) -> OrderedDict[str, Tensor]:
    outer = prefix.removesuffix('backbone.')
    weights, rest = OrderedDict(), OrderedDict()
    for name, tensor in tensors.items():
        bare = name.removeprefix(prefix)
        if name.startswith(prefix) and (bare in own or not bare.startswith(_HEADS)):
            weights[bare] = tensor
        elif bare.removeprefix(outer).startswith(_HEADS):
            report.dropped[name] = 'head, not part of a backbone'
        else:
            rest[name] = tensor
    report.note_leftovers(rest)
    return weights


def _try(module: nn.Module, weights: OrderedDict[str, Tensor], report: Report) -> tuple[list, list] | None:
    """Return the names missing and unexpected after the backbone's hooks have run, or None if shapes differ."""
    trial = copy.deepcopy(module)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        try:
            return tuple(trial.load_state_dict(OrderedDict(weights), strict=False))  # type: ignore[return-value]
        except RuntimeError as error:
            for name, theirs, ours in _MISMATCH.findall(str(error)):
                report.mismatched[name] = f'{theirs} in the file, {ours} in the model'
            if not report.mismatched:
                raise CheckpointError(
                    f'{report.source} does not fit: {error}', 'give another file', misfit=True
                ) from error
    return None


def _compare(own: dict, weights: dict, missing: list, unexpected: list, report: Report) -> None:
    if not any(_OUTPUT_NORMS.match(name) and name in own for name in weights):
        report.fresh.update(
            (name, 'norm of an output, which a classifier does not have')
            for name in missing
            if _OUTPUT_NORMS.match(name)
        )
    report.missing += [
        name for name in missing if name not in report.fresh and not name.endswith('num_batches_tracked')
    ]
    for name in unexpected:
        if _OUTPUT_NORMS.match(name):
            report.dropped[name] = 'final norm, which this backbone does not have'
        else:
            report.unexpected.append(name)
    for name in own:
        if name in missing or name in report.resized:
            continue
        if name not in weights or weights[name].shape != own[name].shape:
            report.resized[name] = 'by the backbone itself'
        elif misfit := mismatch(weights[name], own[name]):
            report.mismatched[name] = misfit
        else:
            report.used.append(name)
