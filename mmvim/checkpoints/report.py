"""What became of every tensor of a file and of every weight of a model."""

import re
from dataclasses import dataclass, field

from .errors import CheckpointError, some

# Weights of blocks in the backbones of mmvim. Where one is missing the model is not the published one, come what may.
_IN_BLOCKS = re.compile(r'(^|\.)(layers|levels|blocks|stages)\.')


@dataclass
class Report:
    """The account of one load.

    Attributes:
        source (str): The file, for messages.
        what (str): What it was found to be, for example 'classifier of Vim, arch tiny'.
        used (list[str]): Weights of the model that the file fills as it is.
        resized (dict[str, str]): Weights filled after resampling, and from what to what.
        dropped (dict[str, str]): Tensors of the file left out on purpose, and why.
        fresh (dict[str, str]): Weights of the model that such a file cannot have, and why.
        missing (list[str]): Weights of the model that the file should have and has not.
        mismatched (dict[str, str]): Weights whose shape differs, and how.
        unexpected (list[str]): Tensors of the file that have no place.
    """

    source: str = ''
    what: str = ''
    used: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, str] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line: the file, what it is, and how many tensors went where."""
        counts = [f'{len(self.used)} used']
        counts += [f'{len(value)} {name}' for name, value in self._parts() if value]
        return f'{self.source}: {self.what}; {", ".join(counts)}'

    def text(self) -> str:
        """The whole account: the summary and, by kind, each name with its reason; names of used weights left out."""
        lines = [self.summary()]
        for name, value in self._parts():
            if value:
                lines.append(f'{name}:')
                lines += [f'  {k}: {v}' for k, v in value.items()] if isinstance(value, dict) \
                    else [f'  {k}' for k in value]
        return '\n'.join(lines)

    def _parts(self) -> tuple[tuple[str, dict | list], ...]:
        return tuple((name, getattr(self, name))
                     for name in ('resized', 'dropped', 'fresh', 'missing', 'mismatched', 'unexpected'))

    def account(self, own: dict, given: dict) -> None:
        """Compare the shapes of a model with those of what was made for it.

        Args:
            own (dict): Names and tensors of the model.
            given (dict): Names and tensors made of the file.
        """
        for name, tensor in own.items():
            if name not in given:
                if name not in self.fresh and not name.endswith('num_batches_tracked'):
                    self.missing.append(name)
            elif given[name].shape != tensor.shape:
                self.mismatched[name] = f'{tuple(given[name].shape)} in the file, {tuple(tensor.shape)} in the model'
            elif name not in self.resized:
                self.used.append(name)
        self.unexpected += [name for name in given if name not in own]

    def check(self, strict: bool = True) -> None:
        """Raise if the file does not fit.

        Args:
            strict (bool): Whether every weight and tensor must have its match. If not, only the weights of the model's
                blocks must be filled. Defaults to True.

        Raises:
            CheckpointError: If something is missing, of another shape or, with `strict`, left over.
        """
        wrong = []
        missing = [name for name in self.missing if strict or _IN_BLOCKS.search(name)]
        if missing:
            wrong.append(f'lacks {len(missing)} weights ({some(missing)})')
        if self.mismatched:
            wrong.append(f'has {len(self.mismatched)} of another shape '
                         f'({some(f"{k}: {v}" for k, v in self.mismatched.items())})')
        if self.unexpected and strict:
            wrong.append(f'has {len(self.unexpected)} that belong nowhere ({some(self.unexpected)})')
        if wrong:
            remedy = 'give a file of this architecture' if missing or self.mismatched else \
                'give the right file, or strict=False to leave those out'
            raise CheckpointError(f'{self.source} ({self.what}) does not fit: it {", ".join(wrong)}', remedy,
                                  misfit=True)
