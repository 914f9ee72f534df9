"""What a config from a repository may name, so that building its model runs code of installed packages alone.

MMEngine takes ``type='os.mkdir'`` for the function of that name and calls it; MMCV evaluates the name of an NMS and
MMDetection that of a warp; losses, tokenizers and trackers unpickle files that their configs name, and the config of a
teacher is run. A config of one's own may do all of that. One from elsewhere may name what is registered of the parts of
segmentors, detectors and classifiers, and no file.
"""

import builtins
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry

from mmvim.checkpoints.errors import CheckpointError

# Packages that are imported when a config names them. Others must have been imported by whoever asks for the model.
PACKAGES = ('mmvim', 'mmengine', 'mmseg', 'mmdet', 'mmpretrain')
# Of their modules those of models, without those that evaluate texts or read files of their own.
_MODELS = ('mmseg.models.', 'mmseg.structures.', 'mmdet.models.', 'mmpretrain.models.', 'mmvim.', 'mmengine.')
_OTHERS = re.compile(r'\.(tracking|mot|reid|vis|multimodal|language_models|retrievers|selfsup|hugging_face)(\.|$)')
_FILES = (
    *('.py', '.pkl', '.pickle', '.pth', '.pt', '.bin', '.tar', '.ckpt', '.safetensors', '.npy', '.npz'),
    *('.json', '.yml', '.yaml', '.txt', '.csv'),
)
# Keys whose texts are files, whatever they look like; a text of another key that is a path is one, too.
_FILE_KEYS = re.compile(r'checkpoint|pretrained|class_weight|(.*_)?(path|file|ckpt|config|url|root)')


def check_config(config: Any, source: str, scope: str | None = None) -> None:
    """Refuse the config of a model that would run something else than registered modules, or read files.

    Args:
        config: The config: dictionaries, lists and plain values.
        source: What messages call it.
        scope: Its ``default_scope``. Defaults to None, mmvim.

    Raises:
        CheckpointError: If a ``type`` is not registered, a scope is of no package that is known or imported, or a text
            names a file or an address or could be a call.

    Examples:
        >>> from mmvim.hub.trusted import check_config
        >>> check_config({'type': 'mmvim.Vim', 'norm_cfg': {'type': 'LN'}}, 'config.json')
        >>> check_config({'type': 'os.mkdir', 'path': 'hurt'}, 'config.json')
        Traceback (most recent call last):
            ...
        mmvim.checkpoints.errors.CheckpointError: config.json has type='os.mkdir', which is no registered part of a \
model; give the name of a registered module, and import the package that registers it
    """
    names = _Names([*_scopes_in({'_scope_': scope, 'config': config})])
    names.check_scope(scope, f'default_scope of {source}')
    _check(config, source, '', names)


def _scopes_in(node: Any) -> Iterator[str]:
    """Yield the scopes that a config names, known ones or not."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == '_scope_' and isinstance(value, str):
                yield value
            elif key == 'type' and isinstance(value, str) and '.' in value:
                yield value.partition('.')[0]
            else:
                yield from _scopes_in(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _scopes_in(value)


class _Names:
    """The registered names of each scope, gathered when they are asked for.

    Args:
        used: Scopes where a name without one may be; MMEngine's and mmvim's own are always among them.
    """

    def __init__(self, used: list[str]) -> None:
        self._of: dict[str, dict[str, bool]] = {}
        self._used = [scope for scope in dict.fromkeys(('mmvim', 'mmengine', *used)) if scope in self._scopes()]

    def check_scope(self, scope: Any, where: str) -> None:
        """Refuse what importing would be needed for, of a package that nobody here knows."""
        if scope is not None and not (isinstance(scope, str) and scope in self._scopes()):
            raise CheckpointError(
                f'{where} is {scope!r}, which is neither one of {", ".join(PACKAGES)} nor a package with registries '
                f'that has been imported',
                'import that package first, if you trust it',
            )

    def allows(self, name: str) -> bool:
        """Say whether a name is of a part of models, or a bare one that does not lead MMEngine to anything.

        Such bare names are what ``nms`` and ``RoIAlign`` of MMCV go by, and texts that a module compares.
        """
        scope, dot, bare = name.partition('.')
        if dot:
            return scope in self._scopes() and self._registered(scope).get(bare, False)
        found = [self._registered(scope)[name] for scope in self._used if name in self._registered(scope)]
        if found:
            return all(found)
        return name.isidentifier() and not hasattr(builtins, name) and not _is_module(name)

    def _scopes(self) -> set[str]:
        return {*PACKAGES, *(found.scope for found in _tree(mmengine_registry))}

    def _registered(self, scope: str) -> dict[str, bool]:
        """Return the names that a scope has registered, and whether each is of a part of models."""
        if scope not in self._of:
            found: dict[str, bool] = {}
            trees = [mmengine_registry]
            if scope in PACKAGES and find_spec(scope) is not None and find_spec(f'{scope}.registry') is not None:
                trees.append(import_module(f'{scope}.registry'))
            for registry in (one for tree in trees for one in _tree(tree)):
                if registry.scope == scope:
                    with suppress(ImportError):  # of what is not installed; then its modules are not registered
                        registry.import_from_location()
                    for name, made in registry.module_dict.items():
                        found[name] = found.get(name, True) and _is_part(made)
            self._of[scope] = found
        return self._of[scope]


def _is_module(name: str) -> bool:
    try:
        found = find_spec(name)
    except ValueError:  # of `__main__`
        return True
    return found is not None and found.origin is not None  # a mere folder of that name runs nothing


def _is_part(made: Any) -> bool:
    """Say whether a registered object is a part of models, or of a package that somebody here has imported."""
    module = getattr(made, '__module__', None) or ''
    if module.partition('.')[0] not in PACKAGES:
        return True
    return module.startswith(_MODELS) and _OTHERS.search(module) is None


def _tree(module: ModuleType) -> Iterator[Registry]:
    """Yield the registries of a module and all that descend from them."""
    waiting = [value for value in vars(module).values() if isinstance(value, Registry)]
    while waiting:
        registry = waiting.pop()
        yield registry
        waiting += registry.children.values()


def _check(node: Any, source: str, where: str, names: _Names) -> None:
    if isinstance(node, dict):
        kind = node.get('type')
        if isinstance(kind, str) and not names.allows(kind):
            place = f' in {where}' if where else ''
            raise CheckpointError(
                f'{source} has type={kind!r}{place}, which is no registered part of a model',
                'give the name of a registered module, and import the package that registers it',
            )
        names.check_scope(node.get('_scope_'), f'_scope_ of {source}')
        for key, value in node.items():
            _check(value, source, f'{where}.{key}' if where else str(key), names)
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            _check(value, source, f'{where}.{index}', names)
    elif isinstance(node, str):
        key = where.rpartition('.')[2]
        if _FILE_KEYS.fullmatch(key) or '/' in node or '\\' in node or node.lower().endswith(_FILES):
            raise CheckpointError(
                f'{source} has {where}={node!r}, a file besides its weights',
                'leave it out, or give what the file holds',
            )
        if '(' in node or '[' in node:  # some of these texts are evaluated
            raise CheckpointError(f'{source} has {where}={node!r}, which could be a call', 'leave it out')
    elif where.endswith('trust_remote_code') and node:
        raise CheckpointError(f'{source} has {where}={node!r}, which would run code from elsewhere', 'leave it out')
