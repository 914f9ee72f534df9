"""The arguments of the class behind a config dict."""

import inspect
from collections.abc import Callable
from typing import Any

from mmengine import registry as root
from mmengine.registry import Registry

# The registry that builds a dict, by the last key on its path that is listed here (outside models).
_REGISTRIES: dict[str, Registry] = {
    'dataset': root.DATASETS,
    'datasets': root.DATASETS,
    'sampler': root.DATA_SAMPLERS,
    'batch_sampler': root.DATA_SAMPLERS,
    'pipeline': root.TRANSFORMS,
    'tta_pipeline': root.TRANSFORMS,
    'transforms': root.TRANSFORMS,
    'optim_wrapper': root.OPTIM_WRAPPERS,
    'optimizer': root.OPTIMIZERS,
    'param_scheduler': root.PARAM_SCHEDULERS,
    'default_hooks': root.HOOKS,
    'custom_hooks': root.HOOKS,
    'val_evaluator': root.METRICS,
    'test_evaluator': root.METRICS,
    'visualizer': root.VISUALIZERS,
    'vis_backends': root.VISBACKENDS,
    'log_processor': root.LOG_PROCESSORS,
}
_LOOPS = ('train_cfg', 'val_cfg', 'test_cfg')


def _registries(path: tuple[str, ...]) -> tuple[Registry, ...]:
    if not path:
        return ()
    if path[0] in ('model', 'tta_model', 'data_preprocessor'):
        return (root.WEIGHT_INITIALIZERS,) if 'init_cfg' in path else (root.MODELS, root.TASK_UTILS)
    if path[0] in _LOOPS:
        return (root.LOOPS,) if len(path) == 1 else ()
    return next(((_REGISTRIES[key],) for key in reversed(path) if key in _REGISTRIES), ())


def find_type(node: dict, path: tuple[str, ...], scope: str) -> Callable | None:
    """Return the class or function that ``type`` of a config dict names.

    Args:
        node: The config dict.
        path: Keys from the top of the config to ``node``.
        scope: ``default_scope``, or the nearest ``_scope_`` above ``node``.

    Returns:
        The class or function; None if the dict has no ``type`` or its registry does not know it.

    Examples:
        >>> from mmvim.cli.signatures import find_type
        >>> find_type(dict(type='Vim'), ('model', 'backbone'), scope='mmvim').__name__
        'Vim'
    """
    name = node.get('type')
    if callable(name):
        return name
    if not isinstance(name, str):
        return None
    for registry in _registries(path):
        with registry.switch_scope_and_registry(node.get('_scope_', scope)) as scoped:
            try:
                found = scoped.get(name)
            except (KeyError, RuntimeError):  # an unknown prefix, or an empty name
                found = None
        if found is not None:
            return found
    return None


def accepted_arguments(target: Callable) -> tuple[set[str], bool]:
    """Return the keyword arguments that a class or function takes.

    ``**kwargs`` of an ``__init__`` is followed up the class's bases, where such arguments usually go.

    Args:
        target: The class or function.

    Returns:
        The names, and whether they are complete: False if some ``__init__`` on the way takes ``**kwargs``, which it may
        use differently.

    Examples:
        >>> from mmvim.cli.signatures import accepted_arguments
        >>> class Base:
        ...     def __init__(self, depth=2): ...
        >>> class Derived(Base):
        ...     def __init__(self, width=8, **kwargs): ...
        >>> names, complete = accepted_arguments(Derived)
        >>> sorted(names), complete
        (['depth', 'width'], False)
    """
    names: set[str] = set()
    complete = True
    functions = (
        [c.__dict__['__init__'] for c in target.__mro__ if '__init__' in c.__dict__ and c is not object]
        if inspect.isclass(target)
        else [target]
    )
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        names.update(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
        complete = False
    return names - {'self'}, complete


def default_of(target: object, name: str) -> Any:
    """Return the default of an argument, from the most derived ``__init__`` that has one; None if none has.

    Args:
        target: A class; anything else has no defaults.
        name: The argument.

    Examples:
        >>> from mmvim.cli.signatures import default_of
        >>> class Layer:
        ...     def __init__(self, width=8): ...
        >>> default_of(Layer, 'width')
        8
    """
    for function in [c.__dict__['__init__'] for c in getattr(target, '__mro__', ()) if '__init__' in c.__dict__]:
        parameter = inspect.signature(function).parameters.get(name)
        if parameter is not None and parameter.default is not parameter.empty:
            return parameter.default
    return None
