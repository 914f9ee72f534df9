"""The interface of a family, and the search for the family of a file or a backbone."""

import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from mmvim.checkpoints.errors import CheckpointError, some
from mmvim.checkpoints.layout import Layout, find_prefix, layout_of
from mmvim.checkpoints.report import Report

HEAD = 'classification head, not part of a backbone'


class Family(ABC):
    """A publisher's naming and habits.

    All names are the backbone's own, without the prefix that a file puts before them.

    Attributes:
        name: 'vim', 'mambavision'.
        backbone: Class of the backbone.
        stem: Names that every backbone of the family has, and no other family's.
        neck: The backbone's names that belong to a neck here, as prefix in the file to prefix here. Defaults to {}.
        final_norm: Name of the weight of a classifier's last norm.
        file_options: What the tensors do not reveal about a file, with the published values. Defaults to {}.
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
    """

    name: ClassVar[str]
    backbone: ClassVar[Any]
    stem: ClassVar[tuple[str, ...]]
    neck: ClassVar[dict[str, str]] = {}
    final_norm: ClassVar[str]
    file_options: ClassVar[dict] = {}
    config_options: ClassVar[dict] = {}
    numbers: ClassVar[dict[str, tuple[int, ...]]] = {}
    choices: ClassVar[dict[str, tuple]] = {}

    @property
    def title(self) -> str:
        """Name of the backbone's class."""
        return self.backbone.__name__

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

    @abstractmethod
    def fit(self, own: dict[str, Tensor], module: Any, options: dict, report: Report) -> OrderedDict[str, Tensor]:
        """Make the weights for a backbone from those of a file.

        Args:
            own: The file's tensors by the backbone's names.
            module: The backbone, on any device.
            options: All of ``file_options``.
            report: Receives what is resized, dropped and fresh.

        Returns:
            The weights by name.
        """

    @abstractmethod
    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, dict | None]:
        """Derive the config dicts of the backbone, and of the neck, that a file was made with.

        Args:
            own: The file's tensors by the backbone's names.
            kind: What the file is a checkpoint of; 'dense' for a backbone for dense prediction from any file.
            arch: The architecture.
            options: All of ``file_options`` and ``config_options``.

        Returns:
            Config of the backbone, and of the neck if the family puts a pyramid into the backbone, else None.
        """

    def check_arch(self, own: dict[str, Tensor], module: nn.Module, source: str) -> None:
        """Say in one line that a file is of another size, rather than list every shape that differs.

        Raises:
            CheckpointError: If the file is of another size.
        """
        theirs, ours = self.settings(own), self.settings(module.state_dict())
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


def _is_number(value: Any, lengths: tuple[int, ...]) -> bool:
    many = isinstance(value, (tuple, list))
    items = value if many else [value]
    return (len(items) if many else 0) in lengths and all(type(item) is int and item > 0 for item in items)


FAMILIES: dict[str, Family] = {}


def family_of(module: nn.Module) -> Family | None:
    """Return the family of a backbone, or None if it is not known here.

    Args:
        module: The backbone.

    Examples:
        >>> from mmvim.checkpoints.families import family_of
        >>> from mmvim.models import Vim
        >>> family_of(Vim({'embed_dims': 16, 'depth': 2})).name
        'vim'
    """
    return next((family for family in FAMILIES.values() if isinstance(module, family.backbone)), None)


def recognise(names: Iterable[str], source: str, prefix: str | None = None) -> Layout | None:
    """Recognise whose backbone a file holds, and behind which prefix.

    Args:
        names: All names of the file.
        source: The file, for messages.
        prefix: What precedes the backbone's names. Defaults to None, any chain of the usual wrappers.

    Returns:
        The layout, or None if the file holds no backbone of a known family.

    Raises:
        CheckpointError: If the file holds several.

    Examples:
        >>> from mmvim.checkpoints.families import recognise
        >>> from mmvim.models import Vim
        >>> names = Vim({'embed_dims': 16, 'depth': 2}).state_dict(prefix='module.')
        >>> recognise(names, 'vim.pth')
        Layout(family='vim', prefix='module.', outer='module.', kind='backbone')
    """
    names = list(names)
    for family in FAMILIES.values():
        found = find_prefix(names, family.stem, source, prefix)
        if found is not None:
            return layout_of(names, family.name, found)
    return None


def shape_of(own: dict[str, Tensor], pattern: str, axes: int) -> tuple[int, ...]:
    """Return the shape of the first tensor whose name matches; zeros if none does or it has another number of axes."""
    shape = next((tuple(tensor.shape) for name, tensor in own.items() if re.fullmatch(pattern, name)), ())
    return shape if len(shape) == axes else (0,) * axes


def count(own: dict[str, Tensor], pattern: str) -> int:
    """Return one more than the largest number that ``pattern``'s group finds in the names, or 0 if it finds none."""
    numbers = [int(match[1]) for match in map(re.compile(pattern).match, own) if match]
    return max(numbers, default=-1) + 1


def drop(own: dict[str, Tensor], report: Report, start: str | tuple[str, ...], reason: str) -> None:
    """Drop the tensors whose names begin with ``start``, and record the reason in the report."""
    for name in [name for name in own if name.startswith(start)]:
        del own[name]
        report.dropped[name] = reason


def unpublished(title: str, source: str, settings: dict, zoo: Iterable[str]) -> CheckpointError:
    """Make the error for a file whose sizes are those of no published architecture."""
    sizes = some((f'{k}={v}' for k, v in settings.items()), 9)
    return CheckpointError(
        f'{source} is a {title} of no published size ({sizes}); published are {", ".join(zoo)}',
        'give arch=dict(...) if that is meant, or a complete file',
        misfit=True,
    )
