"""The config that MMEngine writes into a checkpoint, read without running it."""

import ast
from typing import Any


def recorded_config(container: dict) -> dict:
    """Return the config that a checkpoint was saved with, or {} if the file does not have it.

    MMEngine's runner writes the whole config as Python source. Only literals and ``dict(...)`` are read; whatever else
    stands there becomes None.

    Args:
        container: What :func:`mmvim.checkpoints.load_file` returned.

    Examples:
        >>> recorded_config({'meta': {'cfg': "model = dict(type=find(), backbone=dict(img_size=(64, 256)))"}})
        {'model': {'type': None, 'backbone': {'img_size': (64, 256)}}}
    """
    meta = container.get('meta')
    source = meta.get('cfg') if isinstance(meta, dict) else None
    if not isinstance(source, str):
        return {}
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return {
        target.id: _literal(statement.value)
        for statement in statements
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def backbone_config(container: dict) -> dict:
    """Return the config of the backbone that a checkpoint was saved with, or {} if the file does not have it.

    Args:
        container: What :func:`mmvim.checkpoints.load_file` returned.

    Examples:
        >>> backbone_config({'meta': {'cfg': "model = dict(backbone=dict(type='mmvim.Vim'))"}})
        {'type': 'mmvim.Vim'}
    """
    model = recorded_config(container).get('model')
    while isinstance(model, dict) and 'backbone' not in model and isinstance(model.get('model'), dict):
        model = model['model']  # a wrapper around the model
    backbone = model.get('backbone') if isinstance(model, dict) else None
    return backbone if isinstance(backbone, dict) else {}


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict':
        return {word.arg: _literal(word.value) for word in node.keywords if word.arg is not None}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {str(_literal(key)): _literal(value) for key, value in pairs if key is not None}
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_literal(item) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
