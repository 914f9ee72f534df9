"""What became of every tensor of a file and of every weight of a model."""

import re
from dataclasses import dataclass, field

from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError, some

# Weights of the blocks of mmvim's backbones. Without one of them the model is not the published one, strict or not.
_IN_BLOCKS = re.compile(r'(^|\.)(layers|levels|blocks|stages)\.')
# What a model keeps beside its weights and can do without: counters of batches, records of grids.
_KEPT_BESIDE = ('num_batches_tracked', '_grid')
# Counters that PyTorch's and MMEngine's wrappers keep beside the weights that they average.
_COUNTERS = re.compile(r'(^|\.)(n_averaged|steps)$')


def mismatch(given: Tensor, own: Tensor) -> str | None:
    """Return why a tensor of a file cannot be a weight of the model, or None if it can.

    Shapes must be equal. Integers fit integers and floats fit floats; whole numbers in a float dtype also fit integers.
    """
    if given.shape != own.shape:
        return f'{tuple(given.shape)} in the file, {tuple(own.shape)} in the model'
    if given.is_floating_point() == own.is_floating_point():
        return None
    # Everything may have been saved in one dtype, batch norm's counters included.
    if not given.is_floating_point() or bool((given != given.round()).any()):
        return f'{given.dtype} in the file, {own.dtype} in the model'.replace('torch.', '')
    return None


@dataclass
class Report:
    """The account of one load.

    Attributes:
        source: The file, for messages. Defaults to ''.
        what: What the file was found to be, for example 'classifier of Vim, arch tiny'. Defaults to ''.
        used: Weights of the model that the file fills without change.
        resized: Weights that were resampled, and from what to what.
        dropped: Tensors of the file that were left out on purpose, and why.
        fresh: Weights of the model that such a file cannot have, and why.
        missing: Weights of the model that the file should have but lacks.
        mismatched: Weights of another shape or kind of number, and how they differ.
        unexpected: Tensors of the file that have no place in the model.
        assumed: What the file does not say of itself, and from where it was taken instead.

    Examples:
        >>> import torch
        >>> from mmvim.checkpoints import Report
        >>> report = Report('vim.pth', 'backbone of Vim')
        >>> report.compare({'norm.weight': torch.ones(4)}, {'norm.weight': torch.zeros(4), 'extra': torch.ones(1)})
        >>> print(report.text())
        vim.pth: backbone of Vim; 1 used, 1 unexpected
        unexpected:
          extra
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
    assumed: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """Return one line: the file, what it is, and how many tensors went where."""
        counts = [f'{len(self.used)} used']
        counts += [f'{len(value)} {name}' for name, value in self._parts() if value]
        return f'{self.source}: {self.what}; {", ".join(counts)}'

    def text(self) -> str:
        """Return the whole account: the summary, then by kind each name with its reason, except for used weights."""
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
            for name in ('resized', 'dropped', 'assumed', 'fresh', 'missing', 'mismatched', 'unexpected')
        )

    def compare(self, own: dict, given: dict) -> None:
        """Compare a model's weights with those made for it, and record which are used, missing, misfits or left over.

        Args:
            own: The model's tensors by name.
            given: The tensors made from the file, by the model's names.
        """
        for name, tensor in own.items():
            if name in self.assumed:
                continue
            if name not in given:
                if name not in self.fresh and not name.endswith(_KEPT_BESIDE):
                    self.missing.append(name)
            elif misfit := mismatch(given[name], tensor):
                self.mismatched[name] = misfit
            elif name not in self.resized:
                self.used.append(name)
        self.unexpected += [name for name in given if name not in own]

    def require_output_norms(self, kind: str) -> None:
        """Count output norms that the file lacks as missing, unless it may lack them.

        Output norms may be absent from a classifier's file, but in a segmentor's or detector's file their absence is an
        error.

        Args:
            kind: What the file is a checkpoint of.
        """
        if kind in ('segmentor', 'detector'):
            self.missing += self.fresh
            self.fresh = {}

    def note_leftovers(self, tensors: dict) -> None:
        """Record tensors that belong to no part of the model.

        Counters of a weight average are expected and dropped; others are unexpected.

        Args:
            tensors: Tensors by the file's names.
        """
        for name, tensor in tensors.items():
            if _COUNTERS.search(name) and tensor.dim() == 0:
                self.dropped[name] = 'counter of the average of these weights'
            else:
                self.unexpected.append(name)

    def check(self, strict: bool = True) -> None:
        """Raise if the file does not fit.

        Args:
            strict: Require a match for every weight and every tensor. If False, only the weights of the model's blocks
                must be filled. Defaults to True.

        Raises:
            CheckpointError: If something is missing, of another shape or, with ``strict``, left over.
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
