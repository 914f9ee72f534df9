"""Whose file it is and what it is a checkpoint of, told from names alone.

A file names a backbone's weights behind a prefix (wrappers such as ``module.``, or ``backbone.`` in a segmentor) and
may hold heads beside it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mmvim.checkpoints.errors import CheckpointError

_WRAPPERS = re.compile(r'((module|model|encoder|backbone|net|_orig_mod)\.)*')
_SEGMENTOR = ('decode_head.', 'auxiliary_head.')
_DETECTOR = ('rpn_head.', 'roi_head.', 'bbox_head.', 'mask_head.')
# What OpenMMLab's models have beside ``backbone.``; ``head.`` is MMPreTrain's classifiers'.
PARTS = (*_SEGMENTOR, *_DETECTOR, 'neck.', 'head.')


@dataclass(frozen=True)
class Layout:
    """Where things are in a file.

    Attributes:
        family: 'vim' or 'mambavision'.
        prefix: What precedes the backbone's own names.
        outer: What precedes the names of the other parts (``decode_head`` and the like).
        kind: 'classifier', 'segmentor', 'detector' or 'backbone'.
    """

    family: str
    prefix: str
    outer: str
    kind: str

    def split(self, names: Iterable[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
        """Sort names into the backbone's, the other parts' and the rest.

        Args:
            names: All names of the file.

        Returns:
            From the backbone's own names to the file's; from the other parts' names to the file's; and the names of the
            file that belong to neither.
        """
        own, parts, rest = {}, {}, []
        for name in names:
            bare = name[len(self.outer) :]
            if name.startswith(self.prefix):
                own[name[len(self.prefix) :]] = name
            elif self.prefix != self.outer and name.startswith(self.outer) and bare.startswith(PARTS):
                parts[bare] = name
            else:
                rest.append(name)
        return own, parts, rest


def find_prefix(names: Iterable[str], stem: tuple[str, ...], file: str, prefix: str | None = None) -> str | None:
    """Find what precedes the names of a family's backbone.

    Args:
        names: All names of a file.
        stem: Names that every backbone of the family has, and no other family's.
        file: The file, for messages.
        prefix: The prefix, if the user gives it. Defaults to None, any chain of the usual wrappers.

    Returns:
        The prefix, or None if the file holds no such backbone.

    Raises:
        CheckpointError: If the file holds several.
    """
    names = set(names)
    found = []
    for name in sorted(names):
        if name.endswith(stem[0]):
            before = name[: -len(stem[0])]
            known = before == prefix if prefix is not None else _WRAPPERS.fullmatch(before)
            if known and all(before + other in names for other in stem):
                found.append(before)
    if len(found) > 1:
        raise CheckpointError(
            f'{file} holds {len(found)} backbones, under {found}', f'choose: prefix={found[0]!r}, strict=False'
        )
    return found[0] if found else None


def layout_of(names: Iterable[str], family: str, prefix: str) -> Layout:
    """Describe the layout of a file whose backbone of ``family`` is behind ``prefix``."""
    names = list(names)
    outer = prefix.removesuffix('backbone.')
    beside = {name[len(outer) :] for name in names if name.startswith(outer)} if outer != prefix else set()

    def has(parts: tuple[str, ...]) -> bool:
        return any(name.startswith(parts) for name in beside)

    if has(_SEGMENTOR):
        kind = 'segmentor'
    elif has(_DETECTOR):
        kind = 'detector'
    elif has(('head.',)) or f'{prefix}head.weight' in names:
        kind = 'classifier'
    else:
        kind = 'backbone'
    if not has(PARTS):
        outer = prefix
    return Layout(family, prefix, outer, kind)
