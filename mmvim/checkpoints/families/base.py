"""The interface of a family: everything about a checkpoint that is one publisher's."""

import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError
from mmvim.checkpoints.families.channels import CHANNEL_CHANGES, change_channels
from mmvim.checkpoints.families.names import drop
from mmvim.checkpoints.heads import head_configs
from mmvim.checkpoints.layout import DENSE, Layout
from mmvim.checkpoints.report import Report
from mmvim.checkpoints.view import View
from mmvim.models.backbones.base import Backbone

# What every family has beside its own ``file_options`` and ``choices``.
_OPTIONS = {'channel_change': 'refuse'}
_CHOICES = {'channel_change': CHANNEL_CHANGES}
# Every family by its name; a subclass of Family with a name of its own enters itself.
FAMILIES: dict[str, 'Family'] = {}


class Family(ABC):
    """A publisher's naming and habits.

    Names are the backbone's own, without the prefix that a file puts before them, after ``renames``. A subclass that
    has a ``name`` is registered in ``FAMILIES`` when its module is imported; one without is a base for several.

    Attributes:
        name: How users and converted files call it, such as 'vim'.
        backbone: Class of the backbone; its ``arch_zoo`` has the published architectures.
        stem: Names that tell a file of the family. If a file has those of several families, the family with the most
            is meant.
        picture_kernels: Names of the kernels that read the picture. Defaults to (), the first name of ``stem``.
        renames: From older or other names in files to the backbone's, as pairs of a regular expression and what
            replaces it. They are applied in this order, and must leave the backbone's own names alone. Defaults to ().
        published_names: The opposite for names in which the publisher's current files differ from the backbone. Only
            models that mmvim did not convert from a file need them. Defaults to ().
        head: Names of a classifier's last layer, the current one first. Here it is ``head.fc``. Defaults to
            ``('head',)``.
        final_norm: Name of the weight of a classifier's last norm.
        output_norm: Pattern of how the names of norms of outputs begin; its group is the level. Defaults to
            ``outnorm0.`` and so on.
        neck: The backbone's names that belong to a neck here, as prefix in the file to prefix here. Defaults to {}.
        part_names: From names of other parts in files, such as the layers of a head, to mmvim's; pairs as in
            ``renames``. Defaults to ().
        adapter_names: From the publisher's names of a ViT-Adapter's own parts to mmvim's; pairs as in ``renames``.
            Defaults to ().
        published_adapter_names: The opposite. Defaults to ().
        never_used: Beginnings of the names of tensors that the publisher's dense models have and never use, with the
            reason. Defaults to {}.
        records: Buffers in which mmvim's weights keep what a publisher's do not say, such as the grid of the positions.
            Defaults to ().
        views: The view of a picture in the publisher's evaluation, by arch; None for any other. Defaults to 224 pixels,
            cut out of 256 (bicubic).
        aux_index: Which of several maps of equal width the auxiliary head of a published segmentor reads. Defaults to
            2.
        file_options: What the tensors do not reveal about a file, with the published values. Every family has
            ``channel_change`` among them: what becomes of a stem for pictures of another number of channels than the
            backbone's, 'refuse', or 'repeat', 'mean' or 'zero', see
            :func:`mmvim.checkpoints.families.channels.change_channels`. Defaults to that alone.
        config_options: What the tensors do not reveal about the model, with the published values (None: it depends).
            Defaults to {}.
        numbers: The options that are positive ints, with how many: 0 for a single one, n for a sequence of n. Defaults
            to {}.
        choices: The options with few possible values, with those values. Defaults to {}.

    Examples:
        >>> from mmvim.checkpoints.families import FAMILIES
        >>> family = FAMILIES['vim']
        >>> family.title, family.arch_settings('tiny')['embed_dims']
        ('Vim', 192)
        >>> family.options({'grid': (6, 10)}, ['grid', 'stride'])
        {'grid': (6, 10), 'stride': None}
        >>> print(family.view('tiny'))
        pictures: shorter side 256, bicubic, centre 224 x 224 (crop pct 0.875)
    """

    name: ClassVar[str]
    backbone: ClassVar[Any]
    stem: ClassVar[tuple[str, ...]]
    picture_kernels: ClassVar[tuple[str, ...]] = ()
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    published_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    head: ClassVar[tuple[str, ...]] = ('head',)
    final_norm: ClassVar[str]
    output_norm: ClassVar[str] = r'outnorm(\d)\.'
    neck: ClassVar[dict[str, str]] = {}
    part_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    adapter_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    published_adapter_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    never_used: ClassVar[dict[str, str]] = {}
    records: ClassVar[tuple[str, ...]] = ()
    views: ClassVar[dict[str | None, View]] = {None: View(224, 0.875, 'bicubic')}
    aux_index: ClassVar[int] = 2
    file_options: ClassVar[dict] = dict(_OPTIONS)
    config_options: ClassVar[dict] = {}
    numbers: ClassVar[dict[str, tuple[int, ...]]] = {}
    choices: ClassVar[dict[str, tuple]] = dict(_CHOICES)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register a family by its name.

        Raises:
            TypeError: If it lacks something that every family must have.
            ValueError: If another family has the name.
        """
        super().__init_subclass__(**kwargs)
        cls.file_options, cls.choices = {**cls.file_options, **_OPTIONS}, {**cls.choices, **_CHOICES}
        if not cls.picture_kernels and isinstance(getattr(cls, 'stem', None), tuple):
            cls.picture_kernels = cls.stem[:1]
        if 'name' not in vars(cls):
            return
        own = ('backbone', 'stem', 'final_norm', *sorted(Family.__abstractmethods__))
        missing = [name for name in own if getattr(cls, name, None) is getattr(Family, name, None)]
        if missing:
            raise TypeError(f'{cls.__name__} lacks {", ".join(missing)}; define what every family must have')
        other = type(FAMILIES[cls.name]) if cls.name in FAMILIES else cls
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):  # else it is defined anew
            raise ValueError(f'name={cls.name!r} of {cls.__name__} is that of {other.__name__}; choose another')
        FAMILIES[cls.name] = cls()

    @property
    def title(self) -> str:
        """Name of the backbone's class."""
        return self.backbone.__name__

    # Names

    def rename(self, name: str) -> str:
        """Return the backbone's name for a name in a file."""
        return substitute(name, self.renames)

    def rename_part(self, name: str) -> str:
        """Return mmvim's name for one of another part than the backbone."""
        return substitute(name, self.part_names)

    def published_name(self, name: str) -> str:
        """Return the name in the publisher's current files for one of the backbone."""
        return substitute(name, self.published_names)

    def unused(self, layout: Layout, names: dict[str, str]) -> dict[str, str]:
        """Find the tensors that a whole model in the publisher's layout has and never uses.

        That layout is told by a neck inside the backbone if the family has one; else every segmentor and detector
        counts, because the backbone here does not have such tensors.

        Args:
            layout: The layout of the file.
            names: From mmvim's names (``backbone.…``) to the file's.

        Returns:
            The reason by mmvim's name.
        """
        inside = any(name.startswith('neck.') and given.startswith(layout.prefix) for name, given in names.items())
        if not (inside if self.neck else layout.kind in DENSE):
            return {}
        return {
            name: reason
            for name in names
            for start, reason in self.never_used.items()
            if name.startswith(f'backbone.{start}')
        }

    # Sizes

    @abstractmethod
    def settings(self, own: dict[str, Tensor]) -> dict:
        """Derive the widths and depths of a backbone from the shapes of its weights."""

    @abstractmethod
    def arch_settings(self, arch: str | dict) -> dict:
        """Return the same widths and depths for an architecture, given by name or as a dict."""

    def arch_of(self, own: dict[str, Tensor]) -> str | None:
        """Return the published architecture that has these shapes, or None."""
        settings = self.settings(own)
        return next((arch for arch in self.backbone.arch_zoo if self.arch_settings(arch) == settings), None)

    def check_arch(self, own: dict[str, Tensor], module: Backbone, source: str) -> None:
        """Say in one line that a file is of another size, rather than list every shape that differs.

        Raises:
            CheckpointError: If the file is of another size.
        """
        # Not from the shapes where it knows better: a backbone lacks the parts that its outputs do not need.
        ours = self.settings(module.state_dict()) if module.arch is None else self.arch_settings(module.arch)
        theirs = self.settings(own)
        wrong = {name: value for name, value in theirs.items() if value != ours[name]}
        if wrong:
            arch = self.arch_of(own)
            here = ', '.join(f'{name}={ours[name]}' for name in wrong)
            raise CheckpointError(
                f'{source} is a {self.title} of another size: '
                f'{"arch " + arch + ", " if arch else ""}{", ".join(f"{k}={v}" for k, v in wrong.items())}, '
                f'and this {self.title} has {here}',
                f'set arch={arch!r} or give another file' if arch else 'give a complete file of this architecture',
                misfit=True,
            )

    # Weights and configs

    def recorded(self, config: dict) -> dict[str, Tensor]:
        """Return the ``records`` that the config of a backbone gives, by name; {} if it gives none.

        Args:
            config: What MMEngine wrote into a checkpoint: of any type and content.
        """
        return {}

    def fit(self, own: dict[str, Tensor], module: Backbone, options: dict, report: Report) -> OrderedDict[str, Tensor]:
        """Make the weights for a backbone from those of a file.

        Leaves out parts that the backbone was built without because no output needs them, a classifier's head and,
        where the backbone does not have them, the final norm, norms of outputs and what is never used. If the file has
        no norms of outputs, the backbone's are new. A family adds what else it resizes.

        Args:
            own: The file's tensors by the backbone's names.
            module: The backbone, on any device.
            options: All of ``file_options``.
            report: Receives what is resized, dropped and fresh.

        Returns:
            The weights by name.
        """
        weights, ours = OrderedDict(own), list(module.state_dict())
        output_norm = re.compile(self.output_norm)
        norms = {match[0]: match[1] for match in map(output_norm.match, weights) if match}
        if module.not_built:
            drop(weights, report, module.not_built, f'not needed for out_indices={module.out_indices}')
        drop(weights, report, tuple(f'{head}.' for head in self.head), 'classification head, not part of a backbone')
        norm = self.final_norm.rpartition('.')[0] + '.'
        absent = {norm: 'final norm of the classifier, which dense models do not apply', **self.never_used}
        for start, reason in absent.items():
            if not any(name.startswith(start) for name in ours):
                drop(weights, report, start, reason)
        for start, level in norms.items():
            if not any(name.startswith(start) for name in ours):
                drop(weights, report, start, f'norm of an output that this backbone does not have (level {level})')
        if not norms:
            report.fresh.update(
                (name, 'norm of an output, which a classifier does not have; it starts at 1 and 0')
                for name in ours
                if output_norm.match(name)
            )
        return weights

    def fit_channels(
        self, weights: OrderedDict[str, Tensor], ours: dict[str, Tensor], options: dict, report: Report
    ) -> None:
        """Fit the stem to pictures of the backbone's number of channels, in place.

        Args:
            weights: What :meth:`fit` returned.
            ours: The backbone's weights by name.
            options: All of ``file_options``.
            report: Receives what is resized.

        Raises:
            CheckpointError: If the numbers differ and ``channel_change`` is 'refuse'.
        """
        fit_kernels(weights, ours, self.picture_kernels, options['channel_change'], self.title, report)

    def set_channels(self, config: dict, own: dict[str, Tensor]) -> None:
        """Put ``in_channels`` into the config of a backbone whose file is for pictures of other than 3 channels.

        Args:
            config: What :meth:`config` returned for the backbone, changed in place.
            own: The file's tensors by the backbone's names.
        """
        kernels = (own[name] for name in self.picture_kernels if name in own)
        channels = next((kernel.shape[1] for kernel in kernels if kernel.dim() == 4), 3)
        if channels != 3:
            config['in_channels'] = channels

    @abstractmethod
    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, dict | None]:
        """Derive the config dicts of the backbone, and of the neck, that a file was made with.

        Args:
            own: The file's tensors by the backbone's names, and those of other parts by mmvim's (``neck.…``).
            kind: What the file is a checkpoint of; 'dense' for a backbone for dense prediction from any file.
            arch: The architecture.
            options: All of ``file_options`` and ``config_options``.

        Returns:
            Config of the backbone, and of the neck if the family puts a pyramid into the backbone, else None.
        """

    def heads(self, parts: OrderedDict[str, Tensor], kind: str) -> dict[str, dict]:
        """Derive the config dicts of neck and heads, see :func:`mmvim.checkpoints.heads.head_configs`."""
        return head_configs(parts, kind, self.aux_index)

    # Pictures

    def view(self, arch: str | dict | None, img_size: int | None = None) -> View:
        """Return the view of a picture in the publisher's evaluation.

        Args:
            arch: The architecture.
            img_size: Side of the network's input. Defaults to None, the published one.
        """
        view = self.views.get(arch if isinstance(arch, str) else None) or self.views.get(None) or Family.views[None]
        return view if img_size is None else replace(view, img_size=img_size)

    def input_size(self, arch: str | dict | None, config: dict) -> Any:
        """Return the side of the pictures that a backbone's config is made for, or both if they differ."""
        return config.get('img_size') or self.view(arch).img_size

    # Options

    def options(self, given: dict, names: Iterable[str]) -> dict:
        """Complete the given options with the family's own values.

        Args:
            given: Options that the user sets.
            names: Options that are allowed here.

        Returns:
            A value for each allowed option.

        Raises:
            CheckpointError: If an option is unknown, or its value is of a kind or size that it cannot have.
        """
        known = {**self.file_options, **self.config_options}
        allowed = [name for name in known if name in set(names)]
        unknown = [name for name in given if name not in allowed]
        if unknown:
            raise CheckpointError(
                f'{self.title} has no option {unknown[0]!r}', f'its options are {", ".join(allowed) or "none"}'
            )
        for name, lengths in self.numbers.items():
            if given.get(name) is not None and not _is_number(given[name], lengths):
                kinds = ' or '.join(f'{length} positive ints' if length else 'a positive int' for length in lengths)
                raise CheckpointError(f'{name}={given[name]!r} is not {kinds}', 'omit it for the published value')
        for name, choices in self.choices.items():
            value = given.get(name, known[name])
            if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
                raise CheckpointError(f'{name}={value!r} is not one of {", ".join(map(repr, choices))}', 'omit it')
        return {name: given.get(name, known[name]) for name in allowed}


def fit_kernels(
    weights: dict[str, Tensor], ours: dict[str, Tensor], names: Iterable[str], how: str, title: str, report: Report
) -> None:
    """Fit kernels that read pictures to the model's number of channels, in place; others are left for the report.

    Args:
        weights: Weights by the model's names.
        ours: The model's own.
        names: The kernels.
        how: One of ``CHANNEL_CHANGES``.
        title: The model's class, for messages.
        report: Receives what is resized.

    Raises:
        CheckpointError: If the channels differ and ``how`` is 'refuse'.
    """
    for name in names:
        kernel, own = weights.get(name), ours.get(name)
        if kernel is None or own is None or kernel.dim() != 4 or own.dim() != 4:
            continue
        old, new = kernel.shape[1], own.shape[1]
        if old == new or not kernel.is_floating_point():
            continue
        if how == 'refuse':
            raise CheckpointError(
                f'{report.source} is for pictures of {old} channels ({name}), and this {title} has in_channels={new}',
                "say how the stem is to change: channel_change='repeat', 'mean' or 'zero' beside the checkpoint (in "
                'init_cfg)',
                misfit=True,
            )
        weights[name] = change_channels(kernel, new, how)
        note, before = f'{old} to {new} channels ({how})', report.resized.get(name)
        report.resized[name] = f'{before}; {note}' if before else note


def substitute(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """Return a name after each pair of a regular expression and what replaces it, in this order."""
    for pattern, replacement in pairs:
        name = re.sub(pattern, replacement, name)
    return name


def _is_number(value: Any, lengths: tuple[int, ...]) -> bool:
    many = isinstance(value, (tuple, list))
    items = value if many else [value]
    return (len(items) if many else 0) in lengths and all(type(item) is int and item > 0 for item in items)
