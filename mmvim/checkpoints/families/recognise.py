"""The search for the family of a file or of a backbone."""

from collections.abc import Iterable

from torch import nn

from mmvim.checkpoints.errors import CheckpointError
from mmvim.checkpoints.families.adapted import PLAIN, AdaptedFamily
from mmvim.checkpoints.families.base import FAMILIES, Family
from mmvim.checkpoints.layout import Layout, find_prefixes, layout_of
from mmvim.models.backbones.vit_adapter import ViTAdapter


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
    if isinstance(module, ViTAdapter):
        family = family_of(module.plain)
        return None if family is None else AdaptedFamily(family)
    families = {family.backbone: family for family in FAMILIES.values()}
    return next((families[cls] for cls in type(module).__mro__ if cls in families), None)


def family_for(layout: Layout) -> Family:
    """Return who reads a file of this layout: its family, or its family with an adapter around the backbone.

    Examples:
        >>> from mmvim.checkpoints.families import family_for
        >>> from mmvim.checkpoints.layout import Layout
        >>> family_for(Layout('vim', '', '', 'backbone', adapted=True)).title
        'ViTAdapter around Vim'
    """
    family = FAMILIES[layout.family]
    return AdaptedFamily(family) if layout.adapted else family


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
        Layout(family='vim', prefix='module.', outer='module.', kind='backbone', adapted=False)
    """
    names = list(names)
    behind = {
        before: {name[len(before) :] for name in names if name.startswith(before)}
        for before in (find_prefixes(names) if prefix is None else [prefix])
    }
    # Files of relatives share names: of the families that fit, the one that asks for the most is meant.
    for family in sorted(FAMILIES.values(), key=lambda family: -len(family.stem)):
        found = {}
        for before, bare in behind.items():
            inner = {name.removeprefix(PLAIN) for name in bare}
            own = {family.rename(name) for name in inner} if family.renames else inner
            if own.issuperset(family.stem):
                found[before] = own
        if len(found) > 1:
            raise CheckpointError(
                f'{source} holds {len(found)} backbones, under {list(found)}',
                f'choose: prefix={next(iter(found))!r}, strict=False',
            )
        if found:
            [(before, own)] = found.items()
            has_head = any(f'{head}.weight' in own for head in family.head)
            return layout_of(names, family.name, before, has_head)
    return None
