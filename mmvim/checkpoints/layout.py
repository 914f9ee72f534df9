"""Whose file it is and what it is a checkpoint of, told from names alone.

A file names a backbone's weights behind a prefix (wrappers such as ``module.``, or ``backbone.`` in a segmentor) and
may hold heads beside it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_WRAPPERS = re.compile(r'((module|model|encoder|backbone|net|_orig_mod)\.)*')
_SEGMENTOR = ('decode_head.', 'auxiliary_head.')
_DETECTOR = ('rpn_head.', 'roi_head.', 'bbox_head.', 'mask_head.')
# The kinds of whole models for dense prediction.
DENSE = ('segmentor', 'detector')
# What OpenMMLab's models have beside ``backbone.``; ``head.`` is MMPreTrain's classifiers'.
PARTS = (*_SEGMENTOR, *_DETECTOR, 'neck.', 'head.')


@dataclass(frozen=True)
class Layout:
    """Where things are in a file.

    Attributes:
        family: Its name, such as 'vim'.
        prefix: What precedes the backbone's own names.
        outer: What precedes the names of the other parts (``decode_head`` and the like).
        kind: 'classifier', 'segmentor', 'detector' or 'backbone'.
        adapted: There is a ViT-Adapter around the backbone, whose names stand among the backbone's. Defaults to False.
    """

    family: str
    prefix: str
    outer: str
    kind: str
    adapted: bool = False

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


def has_adapter(names: Iterable[str]) -> bool:
    """Check whether names, without what precedes a backbone's, are those of a ViT-Adapter."""
    return {'spm', 'interactions'} <= {name.split('.')[0] for name in names}


def find_prefixes(names: Iterable[str]) -> list[str]:
    """List what may precede a backbone's names: no prefix, and every chain of wrappers that a name begins with."""
    found = {''}
    for name in names:
        chain = _WRAPPERS.match(name)[0]  # type: ignore[index]  # matches anything
        found.update(chain[: end + 1] for end, letter in enumerate(chain) if letter == '.')
    return sorted(found)


def layout_of(names: Iterable[str], family: str, prefix: str, has_head: bool) -> Layout:
    """Describe the layout of a file.

    Args:
        names: All names of the file.
        family: Name of the family of its backbone.
        prefix: What precedes the backbone's names.
        has_head: The last layer of a classifier is among the backbone's names.
    """
    names = list(names)
    outer = prefix.removesuffix('backbone.')
    beside = {name[len(outer) :] for name in names if name.startswith(outer)} if outer != prefix else set()

    def has(parts: tuple[str, ...]) -> bool:
        return any(name.startswith(parts) for name in beside)

    if has(_SEGMENTOR):
        kind = 'segmentor'
    elif has(_DETECTOR):
        kind = 'detector'
    elif has_head or has(('head.',)):
        kind = 'classifier'
    else:
        kind = 'backbone'
    if not has(PARTS):
        outer = prefix
    return Layout(family, prefix, outer, kind, has_adapter(name.removeprefix(prefix) for name in names))
