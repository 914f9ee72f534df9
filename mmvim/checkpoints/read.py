"""Published files as mmvim needs them: configs that build, weights in mmvim's names, an account of every tensor."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError, some
from mmvim.checkpoints.families import FAMILIES, Family, family_for, recognise
from mmvim.checkpoints.files.container import check_tensors, load_file, weights_of
from mmvim.checkpoints.files.sources import fetch
from mmvim.checkpoints.layout import Layout
from mmvim.checkpoints.naming import sort_tensors
from mmvim.checkpoints.report import Report
from mmvim.models.backbones.base import Backbone


@dataclass
class Published:
    """What :func:`read` finds in a file.

    Attributes:
        family: Its name, such as 'vim'.
        arch: The published architecture, or what was asked for.
        kind: 'classifier', 'segmentor', 'detector', 'backbone', or 'dense' if that was asked for.
        backbone: Config of the backbone.
        state_dict: Weights under mmvim's names: ``backbone.…``, ``neck.…``, ``head.fc.…``, ``decode_head.…``.
        report: What became of every tensor.
        parts: The part of ``state_dict`` that is not the backbone's.
        layout: Where things were in the file.
        key: The key of the file that held the weights; '' for bare weights.
        names: From mmvim's names to the file's.
        dropped: Tensors that were left out, under the file's names.
        order: The file's names in its order.
        pyramid: Config of the neck, if the family keeps one in its backbone. Defaults to None.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim import checkpoints
        >>> from mmvim.models import Vim
        >>> arch = {'embed_dims': 16, 'depth': 2}
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'model': Vim(arch).state_dict()}, file.name)
        ...     found = checkpoints.read(file.name, arch=arch)
        >>> found.family, found.key, found.names['backbone.pos_embed'], found.heads
        ('vim', 'model', 'pos_embed', {})
    """

    family: str
    arch: str | dict
    kind: str
    backbone: dict
    state_dict: OrderedDict[str, Tensor]
    report: Report
    parts: OrderedDict[str, Tensor]
    layout: Layout
    key: str
    names: dict[str, str]
    dropped: OrderedDict[str, Tensor]
    order: list[str]
    pyramid: dict | None = None
    _configs: dict[str, dict] | None = field(default=None, repr=False)

    @property
    def heads(self) -> dict[str, dict]:
        """Config dicts of the heads by name, such as 'decode_head' and 'auxiliary_head', or 'rpn_head' and 'roi_head'.

        Raises:
            CheckpointError: If the type of a head is not known here, or its library is missing.
        """
        return {name: config for name, config in self._all().items() if name != 'neck'}

    @property
    def head(self) -> dict | None:
        """Config of the head that predicts: 'head', 'decode_head', 'roi_head' or 'bbox_head'; None for a backbone."""
        names = ('head', 'decode_head', 'roi_head', 'bbox_head')
        return next((self.heads[name] for name in names if name in self.heads), None)

    @property
    def neck(self) -> dict | None:
        """Config of the neck: a pyramid that the publisher has in the backbone (Vim), a detector's FPN, or None."""
        return self.pyramid or self._all().get('neck')

    def _all(self) -> dict[str, dict]:
        if self._configs is None:
            self._configs = FAMILIES[self.family].heads(self.parts, self.kind)
        return self._configs


def read(
    file: str,
    *,
    key: str | None = None,
    prefix: str | None = None,
    arch: str | dict | None = None,
    task: str | None = None,
    strict: bool = True,
    **options: Any,
) -> Published:
    """Read a published checkpoint.

    The result depends on the file and the arguments alone, and nothing else is changed.

    Args:
        file: A path, a folder with one checkpoint, ``http(s)://`` or ``hf://owner/repo/file``.
        key: Key of the container, such as 'model_ema'. Defaults to None: 'state_dict', else 'model', else bare weights.
        prefix: What precedes the backbone's names in the file. Defaults to None, any chain of the usual wrappers
            (``module.``, ``model.``, ``encoder.``, ``backbone.``).
        arch: The architecture that the file must have. Defaults to None, any published one.
        task: 'dense' for the backbone of a dense model: a classifier's head, final norm and class token are dropped.
            Defaults to None, what the file is.
        strict: Also raise for tensors that have no place. Defaults to True.
        **options: What the tensors do not reveal, by default the published values: ``file_options`` and
            ``config_options`` of the family, such as :class:`mmvim.checkpoints.families.VimFamily`. An unknown one is
            an error.

    Returns:
        Configs, weights and report.

    Raises:
        CheckpointError: If the file cannot be read safely, is of no known family or size, is incomplete or not finite.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim import checkpoints
        >>> from mmvim.models import MambaVision
        >>> arch = {'depths': (1, 1, 2, 2), 'dim': 8, 'in_dim': 8, 'num_heads': (1, 1, 2, 4)}
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'state_dict': MambaVision(arch).state_dict()}, file.name)
        ...     found = checkpoints.read(file.name, arch=arch, out_indices=(1, 3))
        >>> found.kind, found.backbone['type'], found.backbone['out_indices'], len(found.report.dropped)
        ('backbone', 'mmvim.MambaVision', (1, 3), 4)
    """
    path = fetch(file)
    container = load_file(path, file)
    key, tensors = weights_of(container, file, key)
    check_tensors(tensors, file)
    layout = recognise(tensors, file, prefix)
    if layout is None:
        raise CheckpointError(
            f'{file} holds no backbone of {", ".join(f.title for f in FAMILIES.values())}: its '
            f'{len(tensors)} tensors are named {some(tensors)}',
            'give a file of one of them, or the prefix',
            misfit=True,
        )
    family = family_for(layout)
    found = sort_tensors(tensors, layout, container)
    arch = _arch(family, found.own, arch, file)
    if task not in (None, 'dense'):
        raise CheckpointError(f"task={task!r} is neither None nor 'dense'", 'omit it')
    kind = task or layout.kind
    settings = family.options(options, (*family.file_options, *family.config_options))
    backbone, pyramid = family.config({**found.own, **found.parts}, kind, arch, settings)
    family.set_channels(backbone, found.own)
    report = Report(
        file,
        f'{layout.kind} of {family.title}, arch {arch if isinstance(arch, str) else "given"}'
        f'{", as a dense backbone" if task else ""}',
    )
    module = _build_meta(backbone, file)
    own = family.fit(found.own, module, settings, report)
    report.compare(module.state_dict(), own)
    report.require_output_norms(layout.kind)
    _prefix_report(report)
    parts = found.parts if kind != 'dense' else OrderedDict()
    if kind == 'dense':
        report.dropped.update((name, 'another part of the model than the backbone') for name in found.parts)
    else:
        report.used += list(parts)
        if kind == 'classifier':
            _check_head(parts, own.get(family.final_norm), report)
    report.note_leftovers(OrderedDict((name, tensors[name]) for name in found.rest))
    report.check(strict)
    state = OrderedDict(
        (f'backbone.{name}', tensor) for name, tensor in own.items() if f'backbone.{name}' not in report.unexpected
    )
    state.update(parts)
    given = (found.names.get(name, name) for name in report.dropped)
    dropped = OrderedDict((name, tensors[name]) for name in given)
    return Published(
        layout.family,
        arch,
        kind,
        backbone,
        state,
        report,
        parts,
        layout,
        key,
        found.names,
        dropped,
        list(tensors),
        pyramid if kind != 'dense' else None,
    )


def _arch(family: Family, own: OrderedDict[str, Tensor], arch: str | dict | None, file: str) -> str | dict:
    settings = family.settings(own)
    if arch is None:
        arch = family.arch_of(own)
        if arch is None:
            raise CheckpointError(
                f'{file} is a {family.title} of no published size '
                f'({some((f"{k}={v}" for k, v in settings.items()), 9)}); published are '
                f'{", ".join(family.backbone.arch_zoo)}',
                'give arch=dict(...) if that is meant, or a complete file',
                misfit=True,
            )
        return arch
    try:
        wanted = family.arch_settings(arch)
    except (TypeError, ValueError) as error:
        named = isinstance(arch, (str, dict))
        raise CheckpointError(
            str(error) if named else f'arch={arch!r} is neither a name nor a dict of settings',
            f'published are {", ".join(family.backbone.arch_zoo)}',
        ) from error
    wrong = {name: settings[name] for name, value in wanted.items() if settings[name] != value}
    if wrong:
        real = family.arch_of(own)
        raise CheckpointError(
            f'{file} is not {family.title} arch={arch!r}: it has {", ".join(f"{k}={v}" for k, v in wrong.items())}',
            f'it is arch={real!r}' if real else 'give a file of that arch',
            misfit=True,
        )
    return arch


def _build_meta(config: dict, file: str) -> Backbone:
    """Build a backbone without memory for its weights, to ask it for names and shapes."""
    try:
        with torch.device('meta'):
            return ROOT_MODELS.build(dict(config))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f'the backbone of {file} cannot be built with these options: {error}',
            'change or omit the one it names',
        ) from error


def _check_head(parts: OrderedDict[str, Tensor], norm: Tensor | None, report: Report) -> None:
    """Check that each layer of the head takes what the one before it, or the last norm, has channels."""
    layers = ['head.hidden', 'head.fc'] if 'head.hidden.weight' in parts else ['head.fc']
    names = [(f'{layer}.weight', f'{layer}.bias') for layer in layers]
    report.missing += [name for pair in names for name in pair if name not in parts]
    channels = None if norm is None else norm.shape[:1]
    for weight, bias in names:
        if weight not in parts or bias not in parts or channels is None:
            return
        given, channels = channels, parts[bias].shape[:1]
        for name, shape in {bias: channels, weight: (*channels, *given)}.items():
            if tuple(parts[name].shape) != tuple(shape) or not parts[name].is_floating_point():
                report.used.remove(name)
                report.mismatched[name] = f'{tuple(parts[name].shape)} in the file, {tuple(shape)} in the model'


def _prefix_report(report: Report) -> None:
    for name in ('used', 'missing', 'unexpected'):
        setattr(report, name, [f'backbone.{n}' for n in getattr(report, name)])
    for name in ('resized', 'dropped', 'assumed', 'fresh', 'mismatched'):
        setattr(report, name, {f'backbone.{n}': why for n, why in getattr(report, name).items()})
