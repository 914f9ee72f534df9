"""What became of every tensor of a file and of every weight of a model."""

import re
from dataclasses import dataclass, field

from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError, some

# Weights of blocks in the backbones of mmvim. Where one is missing the model is not the published one, come what may.
_IN_BLOCKS = re.compile(r'(^|\.)(layers|levels|blocks|stages)\.')
# What wrappers that average weights count beside them: PyTorch's and MMEngine's.
_COUNTERS = re.compile(r'(^|\.)(n_averaged|steps)$')


def mismatch(given: Tensor, own: Tensor) -> str | None:
    """Why a tensor of a file cannot be a weight of the model, None if it can: its shape, or integers for numbers.

    Whole numbers in a floating dtype can be integers of the model.
    """
    if given.shape != own.shape:
        return f'{tuple(given.shape)} in the file, {tuple(own.shape)} in the model'
    if given.is_floating_point() == own.is_floating_point():
        return None
    # Somebody may have saved all in one dtype, batch norm's counters too.
    if not given.is_floating_point() or bool((given != given.round()).any()):
        return f'{given.dtype} in the file, {own.dtype} in the model'.replace('torch.', '')
    return None


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
        mismatched (dict[str, str]): Weights whose shape or kind of number differs, and how.
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
                lines += (
                    [f'  {k}: {v}' for k, v in value.items()] if isinstance(value, dict) else [f'  {k}' for k in value]
                )
        return '\n'.join(lines)

    def _parts(self) -> tuple[tuple[str, dict | list], ...]:
        return tuple(
            (name, getattr(self, name))
            for name in ('resized', 'dropped', 'fresh', 'missing', 'mismatched', 'unexpected')
        )

    def compare(self, own: dict, given: dict) -> None:
        """Compare the shapes of a model with those of what was made for it.

        Args:
            own (dict): Names and tensors of the model.
            given (dict): Names and tensors made of the file.
        """
        for name, tensor in own.items():
            if name not in given:
                if name not in self.fresh and not name.endswith('num_batches_tracked'):
                    self.missing.append(name)
            elif misfit := mismatch(given[name], tensor):
                self.mismatched[name] = misfit
            elif name not in self.resized:
                self.used.append(name)
        self.unexpected += [name for name in given if name not in own]

    def require_output_norms(self, kind: str) -> None:
        """What a classifier cannot have is missing where a whole dense model has lost it.

        Args:
            kind (str): What the file is a checkpoint of.
        """
        if kind in ('segmentor', 'detector'):
            self.missing += self.fresh
            self.fresh = {}

    def note_leftovers(self, tensors: dict) -> None:
        """Account for tensors that are no part's: counters of an average are expected, others are not.

        Args:
            tensors (dict): Names of the file and tensors.
        """
        for name, tensor in tensors.items():
            if _COUNTERS.search(name) and tensor.dim() == 0:
                self.dropped[name] = 'counter of the average that these weights are'
            else:
                self.unexpected.append(name)

    # What these methods were called before.
    account, demand_outputs, leave_over = compare, require_output_norms, note_leftovers

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
            wrong.append(
                f'has {len(self.mismatched)} of another shape or kind '
                f'({some(f"{k}: {v}" for k, v in self.mismatched.items())})'
            )
        if self.unexpected and strict:
            wrong.append(f'has {len(self.unexpected)} that belong nowhere ({some(self.unexpected)})')
        if wrong:
            remedy = (
                'give a file of this architecture'
                if missing or self.mismatched
                else 'give the right file, or strict=False to leave those out'
            )
            raise CheckpointError(
                f'{self.source} ({self.what}) does not fit: it {", ".join(wrong)}', remedy, misfit=True
            )
