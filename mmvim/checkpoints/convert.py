"""Conversion of a published file to a plain mmvim checkpoint, and back without the loss of a tensor."""

from collections import OrderedDict
from typing import Any

from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError, some
from mmvim.checkpoints.families import FAMILIES, recognise
from mmvim.checkpoints.files.container import check_tensors, load_file, weights_of
from mmvim.checkpoints.files.sources import fetch
from mmvim.checkpoints.layout import DENSE, Layout, has_adapter
from mmvim.checkpoints.naming import to_published
from mmvim.checkpoints.read import Published, read

# Keys of a converted checkpoint: how the original was laid out, and its tensors that mmvim's model does not have.
ORIGIN, LEFT_OUT = 'published', 'left_out'


def to_mmvim(file: str, **options: Any) -> tuple[dict, Published]:
    """Convert a published file to a plain checkpoint for MMEngine.

    Args:
        file: Where the file is, as for :func:`mmvim.checkpoints.read`.
        **options: Any other argument of :func:`mmvim.checkpoints.read`.

    Returns:
        The checkpoint, which has ``state_dict`` in mmvim's names and ``meta``, and what was read. The same file always
        gives the same checkpoint.

    Raises:
        CheckpointError: As :func:`mmvim.checkpoints.read`.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim import checkpoints
        >>> from mmvim.models import Vim
        >>> arch = {'embed_dims': 16, 'depth': 2}
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'model': Vim(arch).state_dict()}, file.name)
        ...     checkpoint, found = checkpoints.to_mmvim(file.name, arch=arch)
        >>> found.kind, 'backbone.pos_embed' in checkpoint['state_dict']
        ('backbone', True)
    """
    found = read(file, **options)
    origin = {
        'family': found.family,
        'arch': found.arch,
        'kind': found.kind,
        'key': found.key,
        'prefix': found.layout.prefix,
        'outer': found.layout.outer,
        'order': found.order,
        'reversible': not found.report.resized and not found.report.unexpected,
    }
    return {
        'meta': {ORIGIN: origin},
        'state_dict': _own_storage(found.state_dict),
        LEFT_OUT: _own_storage(found.dropped),
    }, found


def _own_storage(tensors: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Copy each tensor that is a view of a larger storage, which would otherwise be saved with it."""
    return OrderedDict(
        (name, t.contiguous() if t.untyped_storage().nbytes() == t.nbytes else t.clone()) for name, t in tensors.items()
    )


def from_mmvim(file: str, family: str | None = None, kind: str | None = None) -> dict:
    """Convert a checkpoint in mmvim's names back to its publisher's layout.

    Args:
        file: A file that :func:`to_mmvim` made, or any of an OpenMMLab model whose backbone is of ``family``.
        family: Name of the family, such as 'vim'. Defaults to None, what the file says.
        kind: 'classifier', 'segmentor', 'detector' or 'backbone'. Defaults to None, what the file says.

    Returns:
        A container like the publisher's, with every tensor of the file that it was made from.

    Raises:
        CheckpointError: If the file does not say what it is, or not every tensor of the original is in it unchanged.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim import checkpoints
        >>> from mmvim.models import Vim
        >>> arch = {'embed_dims': 16, 'depth': 2}
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'model': Vim(arch).state_dict()}, file.name)
        ...     checkpoints.save_file(checkpoints.to_mmvim(file.name, arch=arch)[0], file.name)
        ...     back = checkpoints.from_mmvim(file.name)
        >>> list(back), back['model'].keys() == Vim(arch).state_dict().keys()
        (['model'], True)
    """
    container = load_file(fetch(file), file)
    _, tensors = weights_of(container, file)
    check_tensors(tensors, file)
    adapted = has_adapter(name.removeprefix('backbone.') for name in tensors)
    meta = container.get('meta')
    origin = meta.get(ORIGIN) if isinstance(meta, dict) else None
    if origin is None:
        if family is None or kind is None:
            raise CheckpointError(f'{file} was not converted from a published file', 'say what it is: family and kind')
        _check_said(tensors, file, family, kind)
        layout = Layout(family, 'backbone.' if kind in DENSE else '', '', kind, adapted)
        return {'state_dict': to_published(tensors, layout)}
    if not _is_origin(origin):
        raise CheckpointError(f'{file} does not fully say what it was converted from', 'convert the original again')
    for name, said in (('family', family), ('kind', kind)):
        if said not in (None, origin[name]):
            raise CheckpointError(
                f'{file} is of {name} {origin[name]}, not {said}', f'leave out the {name}', misfit=True
            )
    if not origin['reversible']:
        raise CheckpointError(
            f"{file} does not have all of its publisher's tensors: some were resized or had no place at conversion",
            'convert the original file without options',
        )
    layout = Layout(origin['family'], origin['prefix'], origin['outer'], origin['kind'], adapted)
    state = to_published(tensors, layout, origin['order'])
    left_out = container.get(LEFT_OUT)
    if left_out:
        state.update(weights_of(container, file, LEFT_OUT)[1])
    changed = sorted(state.keys() ^ set(origin['order']))
    if changed:
        raise CheckpointError(
            f'{file} was changed after it was converted: {len(changed)} tensors came or went ({some(changed)})',
            'convert the original again',
        )
    ordered: OrderedDict[str, Tensor] = OrderedDict((name, state[name]) for name in origin['order'])
    return {origin['key']: ordered} if origin['key'] else dict(ordered)


def _is_origin(origin: Any) -> bool:
    """Check whether an entry of ``meta`` is what :func:`to_mmvim` writes there."""
    return (
        isinstance(origin, dict)
        and origin.get('family') in FAMILIES
        and isinstance(origin.get('order'), list)
        and all(isinstance(origin.get(name), str) for name in ('kind', 'key', 'prefix', 'outer'))
        and all(isinstance(name, str) for name in origin['order'])
        and isinstance(origin.get('reversible'), bool)
    )


def _check_said(tensors: OrderedDict[str, Tensor], file: str, family: str, kind: str) -> None:
    """Check that a file without a record of its origin is what the user says.

    Raises:
        CheckpointError: If it is not, or its names are not those of an OpenMMLab model.
    """
    layout = recognise(tensors, file)
    if layout is None or layout.family != family:
        found = 'no backbone that is known here' if layout is None else f'a backbone of {layout.family}'
        raise CheckpointError(
            f'{file} holds {found}, not one of {family}', 'give the right file or family', misfit=True
        )
    if layout.prefix != 'backbone.':
        raise CheckpointError(
            f'{file} is not in the names of an OpenMMLab model: its backbone lies under '
            f"{layout.prefix!r}, not 'backbone.'",
            "it may have its publisher's names already",
            misfit=True,
        )
    if layout.kind != kind:
        raise CheckpointError(f'{file} is a {layout.kind}, not a {kind}', f'give kind={layout.kind!r}', misfit=True)
