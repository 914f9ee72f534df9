"""Translation between the names in a publisher's file and those of mmvim's models.

mmvim's names are those of an OpenMMLab model: ``backbone.…``, ``neck.…``, ``decode_head.…``, ``head.fc.…``. Publishers
of classifiers have the backbone's names bare and ``head.…`` beside them; Vim's segmentation code has its pyramid inside
the backbone.
"""

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from mmvim.checkpoints.families import FAMILIES
from mmvim.checkpoints.layout import Layout

_HEAD = {'head.weight': 'head.fc.weight', 'head.bias': 'head.fc.bias'}


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


def sort_tensors(tensors: OrderedDict[str, Tensor], layout: Layout) -> Sorted:
    """Sort the tensors of a file, moving heads and pyramids out of the backbone into parts of their own."""
    own, parts, rest = layout.split(tensors)
    neck = FAMILIES[layout.family].neck
    result = Sorted(OrderedDict(), OrderedDict(), rest, {})
    for name, given in own.items():
        part = _HEAD.get(name) if layout.kind == 'classifier' else None
        part = part or next(
            (f'neck.{here}{name[len(there) :]}' for there, here in neck.items() if name.startswith(there)), None
        )
        if part is not None:
            result.parts[part] = tensors[given]
        else:
            result.own[name] = tensors[given]
        result.names[part or f'backbone.{name}'] = given
    for name, given in parts.items():
        if name in result.parts:  # a second tensor of this name, such as a neck beside the pyramid inside the backbone
            rest.append(given)
            continue
        result.parts[name] = tensors[given]
        result.names[name] = given
    return result


def to_published(
    weights: OrderedDict[str, Tensor], family: str, kind: str, prefix: str = '', outer: str = ''
) -> OrderedDict[str, Tensor]:
    """Put weights back into a publisher's names, the inverse of :func:`sort_tensors`.

    Args:
        weights: Tensors by mmvim's names.
        family: 'vim' or 'mambavision'.
        kind: What they are a checkpoint of.
        prefix: What to put before the backbone's own names. Defaults to ''.
        outer: What to put before the names of other parts. Defaults to ''.

    Returns:
        The tensors by the publisher's names, in the same order.
    """
    head = {here: there for there, here in _HEAD.items()} if kind == 'classifier' else {}
    neck = {f'neck.{here}': there for there, here in FAMILIES[family].neck.items()}
    result: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in weights.items():
        inside = head.get(name) or next(
            (there + name[len(here) :] for here, there in neck.items() if name.startswith(here)), None
        )
        if name.startswith('backbone.'):
            inside = name.removeprefix('backbone.')
        result[outer + name if inside is None else prefix + inside] = tensor
    return result
