"""Which arguments does the class behind a config dict take?"""

import inspect
from collections.abc import Callable

from mmengine import registry as root
from mmengine.registry import Registry

# The registry that builds a dict, by the last key on its path that says so (outside of models).
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
    """The class or function that ``type`` of a config dict names.

    Args:
        node (dict): The config dict.
        path (tuple[str]): Keys from the top of the config to ``node``.
        scope (str): ``default_scope``, or the nearest ``_scope_`` above ``node``.

    Returns:
        Callable, optional: None if the dict has no ``type`` or it is not known to its registry.
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
            except (KeyError, RuntimeError):  # an unknown prefix, or no name at all
                found = None
        if found is not None:
            return found
    return None


def accepted_arguments(target: Callable) -> tuple[set[str], bool]:
    """The keyword arguments a class or function takes.

    ``**kwargs`` of an ``__init__`` is followed up the class's bases, where such arguments usually go.

    Args:
        target (Callable): The class or function.

    Returns:
        tuple[set[str], bool]: The names, and whether the list is complete: False if some ``__init__`` on the way takes
        ``**kwargs``, which it may use in another manner.
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


def default_of(target: Callable, name: str) -> object:
    """The default of an argument, taken from the most derived ``__init__`` that has one; None without one."""
    for function in [c.__dict__['__init__'] for c in getattr(target, '__mro__', ()) if '__init__' in c.__dict__]:
        parameter = inspect.signature(function).parameters.get(name)
        if parameter is not None and parameter.default is not parameter.empty:
            return parameter.default
    return None
