"""The interface of a family, and the search for the one that a file or a backbone belongs to."""

import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from mmvim.checkpoints.errors import CheckpointError, some
from mmvim.checkpoints.layout import Layout, find_prefix, layout_of
from mmvim.checkpoints.report import Report

HEAD = 'classification head, no part of a backbone'


class Family(ABC):
    """A publisher's naming and habits. All names are the backbone's own, without what a file puts before them.

    Attributes:
        name (str): 'vim', 'mambavision'.
        backbone (type): Class of the backbone.
        stem (tuple of str): Names that every backbone of the family has, and no other family's.
        neck (dict): What of a backbone's names belongs to a neck here: prefix there, prefix here.
        final_norm (str): Name of the weight of a classifier's last norm.
        file_options (dict): What tensors do not tell about a file, with the published value.
        config_options (dict): What tensors do not tell about the model, with the published value (None: it depends).
        numbers (dict): Which options are positive ints, and how many: 0 for one alone, n for a sequence of so many.
        choices (dict): Which options are one of a few values, and which.
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
        """Widths and depths of a backbone, from the shapes of its weights."""

    @abstractmethod
    def arch_settings(self, arch: str | dict) -> dict:
        """The same of an architecture, given by name or as a dict."""

    def arch_of(self, own: dict[str, Tensor]) -> str | None:
        """The published architecture that the shapes are of, None for another."""
        settings = self.settings(own)
        return next((arch for arch in self.backbone.arch_zoo if self.arch_settings(arch) == settings), None)

    @abstractmethod
    def fit(self, own: dict[str, Tensor], module: nn.Module, options: dict, report: Report) -> OrderedDict[str, Tensor]:
        """Weights for a backbone from those of a file.

        Args:
            own (dict): The file's names and tensors.
            module (nn.Module): The backbone, on any device.
            options (dict): All of `file_options`.
            report (Report): Receives what is resized, dropped and fresh.

        Returns:
            OrderedDict: Names of the backbone and tensors.
        """

    @abstractmethod
    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, dict | None]:
        """Config dicts of the backbone and of the neck that a file was made with.

        Args:
            own (dict): The file's names and tensors.
            kind (str): What the file is a checkpoint of; 'dense' for a backbone for dense prediction from any file.
            arch (str or dict): The architecture.
            options (dict): All of `file_options` and `config_options`.

        Returns:
            tuple[dict, dict or None]: Config of the backbone, and of the neck where the family puts a pyramid into
            the backbone.
        """

    def check_arch(self, own: dict[str, Tensor], module: nn.Module, source: str) -> None:
        """Say in one line that a file is of another size, rather than list every shape that differs.

        Raises:
            CheckpointError: If it is.
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
        """The family's values of options, where `given` has none.

        Raises:
            CheckpointError: If `given` has one that the family does not know, or of a kind that it cannot be.
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
                raise CheckpointError(f'{name}={given[name]!r} is not {kinds}', 'correct it')
        for name, choices in self.choices.items():
            value = given.get(name, known[name])
            if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
                raise CheckpointError(f'{name}={value!r} is not one of {", ".join(map(repr, choices))}', 'choose one')
        return {name: given.get(name, known[name]) for name in allowed}


def _is_number(value: Any, lengths: tuple[int, ...]) -> bool:
    many = isinstance(value, (tuple, list))
    items = value if many else [value]
    return (len(items) if many else 0) in lengths and all(type(item) is int and item > 0 for item in items)


FAMILIES: dict[str, Family] = {}


def family_of(module: nn.Module) -> Family | None:
    """The family of a backbone, None if it is none that is known here."""
    return next((family for family in FAMILIES.values() if isinstance(module, family.backbone)), None)


def recognise(names: Iterable[str], source: str, prefix: str | None = None) -> Layout | None:
    """Whose file it is.

    Args:
        names (iterable of str): Its names.
        source (str): The file, for messages.
        prefix (str, optional): What stands before the backbone's names. Defaults to None, any row of usual wrappers.

    Returns:
        Layout, optional: None if it holds no backbone of a known family.

    Raises:
        CheckpointError: If it holds several.
    """
    names = list(names)
    for family in FAMILIES.values():
        found = find_prefix(names, family.stem, source, prefix)
        if found is not None:
            return layout_of(names, family.name, found)
    return None


def shape_of(own: dict[str, Tensor], pattern: str, axes: int) -> tuple[int, ...]:
    """The shape of the first tensor whose name matches; zeros if there is none, or none of so many axes."""
    shape = next((tuple(tensor.shape) for name, tensor in own.items() if re.fullmatch(pattern, name)), ())
    return shape if len(shape) == axes else (0,) * axes


def count(own: dict[str, Tensor], pattern: str) -> int:
    """One more than the largest number that `pattern`'s group finds in the names; 0 if it finds none."""
    numbers = [int(match[1]) for match in map(re.compile(pattern).match, own) if match]
    return max(numbers, default=-1) + 1


def drop(own: dict[str, Tensor], report: Report, start: str | tuple[str, ...], reason: str) -> None:
    """Drop the names that begin with `start`, for a reason that the report keeps."""
    for name in [name for name in own if name.startswith(start)]:
        del own[name]
        report.dropped[name] = reason


def unpublished(title: str, source: str, settings: dict, zoo: Iterable[str]) -> CheckpointError:
    """The error for a file whose sizes are of no published architecture."""
    sizes = some((f'{k}={v}' for k, v in settings.items()), 9)
    return CheckpointError(
        f'{source} is a {title} of no published size ({sizes}); published are {", ".join(zoo)}',
        'give arch=dict(...) if that is meant, or a complete file',
        misfit=True,
    )
