"""Translation between the names in a publisher's file and those of mmvim's models.

mmvim's names are those of an OpenMMLab model: ``backbone.…``, ``neck.…``, ``decode_head.…``, ``head.fc.…``. Publishers
of classifiers have the backbone's names bare and the head's beside them; some keep a pyramid inside the backbone.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from mmvim.checkpoints.families import FAMILIES, Family
from mmvim.checkpoints.files.recorded_config import backbone_config
from mmvim.checkpoints.layout import Layout

_BACKBONE = 'backbone.'
_ENDS = ('weight', 'bias')


@dataclass
class Sorted:
    """The tensors of a file, sorted by what they belong to.

    Attributes:
        own: The backbone's, under its own names.
        parts: The other parts', under mmvim's names.
        rest: Names of the file that belong to neither.
        names: From mmvim's names (``backbone.…`` and the parts') to the file's.
    """

    own: OrderedDict[str, Tensor]
    parts: OrderedDict[str, Tensor]
    rest: list[str]
    names: dict[str, str]


def sort_names(names: Iterable[str], layout: Layout) -> tuple[dict[str, str], list[str]]:
    """Give the names in a file their places here, those of heads and pyramids in the backbone included.

    Args:
        names: All names of the file.
        layout: Where things are in it.

    Returns:
        From mmvim's names to the file's, and the names of the file that have no place, or one that is taken.
    """
    own, parts, rest = layout.split(names)
    family = FAMILIES[layout.family]
    found: dict[str, str] = {}
    placed = [(_place(family, layout.kind, bare), given) for bare, given in own.items()]
    placed += [(family.rename_part(bare), given) for bare, given in parts.items()]
    for name, given in placed:
        if name in found:  # such as a neck beside the pyramid inside the backbone
            rest.append(given)
        else:
            found[name] = given
    return found, rest


def _place(family: Family, kind: str, bare: str) -> str:
    """Return mmvim's name for a name that the publisher has in the backbone."""
    name = family.rename(bare)
    layer, _, end = name.rpartition('.')
    if kind == 'classifier' and layer in family.head and end in _ENDS:
        return f'head.fc.{end}'
    for there, here in family.neck.items():
        if name.startswith(there):
            return f'neck.{here}{name.removeprefix(there)}'
    return _BACKBONE + name


def sort_tensors(tensors: OrderedDict[str, Tensor], layout: Layout, container: dict | None = None) -> Sorted:
    """Sort the tensors of a file, moving heads and pyramids out of the backbone into parts of their own.

    Args:
        tensors: By the file's names.
        layout: Where things are in the file.
        container: The file, whose config of the model, if it has one, gives the records that the weights lack.
            Defaults to None.
    """
    names, rest = sort_names(tensors, layout)
    result = Sorted(OrderedDict(), OrderedDict(), rest, names)
    for name, given in names.items():
        if name.startswith(_BACKBONE):
            result.own[name.removeprefix(_BACKBONE)] = tensors[given]
        else:
            result.parts[name] = tensors[given]
    for name, record in FAMILIES[layout.family].recorded(backbone_config(container or {})).items():
        result.own.setdefault(name, record)
    return result


def to_published(
    weights: OrderedDict[str, Tensor], layout: Layout, order: Iterable[str] = ()
) -> OrderedDict[str, Tensor]:
    """Put weights back into a publisher's names, the inverse of :func:`sort_tensors`.

    Args:
        weights: Tensors by mmvim's names.
        layout: Where things are in the publisher's file.
        order: Names of the file that the weights were taken from. Defaults to (): the publisher's current names.

    Returns:
        The tensors by the publisher's names, in the same order.
    """
    family = FAMILIES[layout.family]
    known, _ = sort_names(order, layout)
    if layout.kind == 'classifier':
        known = {**{f'head.fc.{end}': f'{layout.prefix}{family.head[0]}.{end}' for end in _ENDS}, **known}
    neck = {f'neck.{here}': there for there, here in family.neck.items()}
    result: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in weights.items():
        pyramid = next((there + name[len(here) :] for here, there in neck.items() if name.startswith(here)), None)
        if name in known:
            given = known[name]
        elif name.removeprefix(_BACKBONE) in family.records:  # which publishers do not write
            continue
        elif name.startswith(_BACKBONE):
            given = layout.prefix + family.published_name(name.removeprefix(_BACKBONE))
        elif pyramid is not None:
            given = layout.prefix + pyramid
        else:
            given = layout.outer + name
        result[given] = tensor
    return result
