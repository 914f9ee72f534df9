"""Whose file is it, and what is it a checkpoint of? Told from names alone.

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
# What stands beside `backbone.` in a model of OpenMMLab; `head.` in MMPreTrain's classifiers.
PARTS = (*_SEGMENTOR, *_DETECTOR, 'neck.', 'head.')


@dataclass(frozen=True)
class Layout:
    """Where things lie in a file.

    Attributes:
        family (str): 'vim' or 'mambavision'.
        prefix (str): What stands before the backbone's own names.
        outer (str): What stands before the names of the other parts ('decode_head' and the like).
        kind (str): 'classifier', 'segmentor', 'detector' or 'backbone'.
    """

    family: str
    prefix: str
    outer: str
    kind: str

    def split(self, names: Iterable[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
        """Sort names into the backbone's and the other parts', each without what stands before them, and the rest.

        Returns:
            tuple[dict, dict, list]: Own name to file's name; part's name to file's name; names that are neither.
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
    """What stands before the names of a backbone.

    Args:
        names (iterable of str): All names of a file.
        stem (tuple of str): Names that each backbone of a family has, in no other family.
        file (str): The file, for messages.
        prefix (str, optional): The prefix, if the user names it. Defaults to None: any row of usual wrappers.

    Returns:
        str, optional: The prefix, None if the file holds no such backbone.

    Raises:
        CheckpointError: If it holds several.
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
    """The layout of a file whose backbone of `family` lies behind `prefix`."""
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
