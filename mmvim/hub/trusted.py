"""What a config from a repository may name, so that building its model runs code of installed packages alone.

MMEngine takes ``type='os.mkdir'`` for the function of that name and calls it; MMCV evaluates the name of an NMS;
MMSegmentation unpickles class weights of a file that a loss names, and MMDetection runs the config of a teacher. A
config of one's own may do all of that. One from elsewhere may name what is registered, and no file.
"""

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
_FILES = (
    *('.py', '.pkl', '.pickle', '.pth', '.pt', '.bin', '.tar', '.ckpt', '.safetensors', '.npy', '.npz'),
    *('.json', '.yml', '.yaml', '.txt', '.csv'),
)


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
        mmvim.checkpoints.errors.CheckpointError: config.json has type='os.mkdir', which no registry of OpenMMLab \
has; give the name of a registered module, and import the package that registers it
    """
    names = _Names([scope, *_scopes_in(config)])
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

    def __init__(self, used: list[str | None]) -> None:
        self._of: dict[str, set[str]] = {}
        self._used = [scope for scope in dict.fromkeys(('mmvim', 'mmengine', *used)) if scope in self._scopes()]

    def check_scope(self, scope: Any, where: str) -> None:
        """Refuse what importing would be needed for, of a package that nobody here knows."""
        if scope is not None and scope not in self._scopes():
            raise CheckpointError(
                f'{where} is {scope!r}, which is neither one of {", ".join(PACKAGES)} nor a package with registries '
                f'that has been imported',
                'import that package first, if you trust it',
            )

    def allows(self, name: str) -> bool:
        """Say whether a name is registered, or a bare one that at least does not lead MMEngine to a module.

        Bare names are also what ``nms`` and ``RoIAlign`` of MMCV go by, and texts that a module compares.
        """
        return self._has(name) or (name.isidentifier() and find_spec(name) is None)

    def _has(self, name: str) -> bool:
        scope, dot, bare = name.partition('.')
        if dot:
            return scope in self._scopes() and bare in self._registered(scope)
        return any(name in self._registered(scope) for scope in self._used)

    def _scopes(self) -> set[str]:
        return {*PACKAGES, *(found.scope for found in _tree(mmengine_registry))}

    def _registered(self, scope: str) -> set[str]:
        if scope not in self._of:
            found: set[str] = set()
            trees = [mmengine_registry]
            if scope in PACKAGES and find_spec(scope) is not None and find_spec(f'{scope}.registry') is not None:
                trees.append(import_module(f'{scope}.registry'))
            for registry in (one for tree in trees for one in _tree(tree)):
                if registry.scope == scope:
                    with suppress(ImportError):  # of what is not installed; then its modules are not registered
                        registry.import_from_location()
                    found.update(registry.module_dict)
            self._of[scope] = found
        return self._of[scope]


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
                f'{source} has type={kind!r}{place}, which no registry of OpenMMLab has',
                'give the name of a registered module, and import the package that registers it',
            )
        names.check_scope(node.get('_scope_'), f'_scope_ of {source}')
        for key, value in node.items():
            _check(value, source, f'{where}.{key}' if where else str(key), names)
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            _check(value, source, f'{where}.{index}', names)
    elif isinstance(node, str):
        if '://' in node or node.lower().endswith(_FILES):
            raise CheckpointError(
                f'{source} has {where}={node!r}, a file besides its weights',
                'leave it out, or give what the file holds',
            )
        if '(' in node:  # some of these texts are evaluated
            raise CheckpointError(f'{source} has {where}={node!r}, which could be a call', 'leave it out')
