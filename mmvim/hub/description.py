"""What ``config.json`` says of a model: its config, without any file of the machine that it was trained on."""

import copy
from typing import Any

from mmengine.config import Config

import mmvim
from mmvim.checkpoints.errors import CheckpointError

FORMAT = 1
_TUPLE = '__tuple__'


def describe(config: Config | dict, meta: dict | None = None) -> dict:
    """Return what ``config.json`` holds of a model.

    Args:
        config: A whole config with ``model`` and ``default_scope``, or the config of a module alone, such as
            ``dict(type='mmvim.Vim', arch='tiny')``.
        meta: ``classes`` and ``palette``. Defaults to None, unknown.

    Returns:
        A dictionary of what JSON has; tuples are marked, so that they come back as such.

    Raises:
        ValueError: If the config has no ``type``, or holds what JSON cannot, such as a class.

    Examples:
        >>> from mmvim.hub.description import describe
        >>> describe(dict(type='mmvim.Vim', img_size=(64, 96)))['model']
        {'type': 'mmvim.Vim', 'img_size': {'__tuple__': [64, 96]}}
    """
    config = config.to_dict() if isinstance(config, Config) else config
    whole = 'type' not in config
    model = copy.deepcopy(dict(config.get('model') or {}) if whole else dict(config))
    if whole and config.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', copy.deepcopy(config['data_preprocessor']))
    if not isinstance(model.get('type'), str):
        raise ValueError('the config names no model: give one with model=dict(type=...), or dict(type=...) alone')
    found = {'format': FORMAT, 'library': 'mmvim', 'version': mmvim.__version__}
    found['default_scope'] = config.get('default_scope') if whole else None
    found['model'] = _to_json(without_files(model), 'model')
    for key in ('classes', 'palette'):
        if meta and meta.get(key):
            found[key] = _to_json([list(x) if isinstance(x, tuple) else x for x in meta[key]], key)
    return found


def model_config(description: Any, source: str) -> dict:
    """Return the config of a model that :func:`describe` has described.

    Args:
        description: What ``config.json`` holds.
        source: What messages call it.

    Raises:
        CheckpointError: If it does not describe a model of mmvim.

    Examples:
        >>> from mmvim.hub.description import describe, model_config
        >>> model_config(describe(dict(type='mmvim.Vim', img_size=(64, 96))), 'config.json')
        {'type': 'mmvim.Vim', 'img_size': (64, 96)}
    """
    if not isinstance(description, dict) or description.get('library') != 'mmvim' or 'model' not in description:
        raise CheckpointError(
            f'{source} does not describe a model of mmvim',
            "for a publisher's own file use init_cfg=dict(type='Pretrained', checkpoint='hf://OWNER/REPO/FILE')",
        )
    if description.get('format') != FORMAT:
        raise CheckpointError(
            f'{source} has format {description.get("format")!r}, and this mmvim reads {FORMAT}',
            f'it was written by mmvim {description.get("version", "of another version")}; install that',
        )
    return _from_json(description['model'])


def without_files(node: Any) -> Any:
    """Drop what would be read from files when weights are initialised: they come from the repository.

    Args:
        node: A config, or a part of one.

    Examples:
        >>> from mmvim.hub.description import without_files
        >>> without_files({'type': 'Vim', 'init_cfg': {'type': 'Pretrained', 'checkpoint': 'vim.pth'}})
        {'type': 'Vim', 'init_cfg': None}
    """
    if isinstance(node, dict):
        kept = {key: without_files(value) for key, value in node.items() if key != 'pretrained'}
        init = kept.get('init_cfg')
        if isinstance(init, dict) and 'checkpoint' in init:
            kept['init_cfg'] = None
        return kept
    return type(node)(without_files(item) for item in node) if isinstance(node, (list, tuple)) else node


def _to_json(node: Any, where: str) -> Any:
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    if isinstance(node, dict):
        return {str(key): _to_json(value, f'{where}.{key}') for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        items = [_to_json(value, f'{where}.{index}') for index, value in enumerate(node)]
        return {_TUPLE: items} if isinstance(node, tuple) else items
    raise ValueError(f'{where}={node!r} cannot stand in config.json; name it by a text')


def _from_json(node: Any) -> Any:
    if isinstance(node, dict):
        if set(node) == {_TUPLE}:
            return tuple(_from_json(value) for value in node[_TUPLE])
        return {key: _from_json(value) for key, value in node.items()}
    return [_from_json(value) for value in node] if isinstance(node, list) else node
