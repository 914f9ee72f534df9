"""Merging of ``--cfg-options``. MMEngine creates whatever key it is given, so a misspelt one would change nothing.

No list of keys is kept here. A new key is compared with those beside it in the config, with the arguments of the class
that ``type`` names, and with what the sources of MMEngine read.
"""

import copy
import difflib
import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

from mmengine import registry as roots
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.runner import FlexibleRunner, Runner

from mmvim._deprecation import old_names
from mmvim.cli.errors import UserError, warn
from mmvim.cli.evaluation import set_tta

DEEPEST = 64  # parts of a key
_READERS = (Config, Runner, FlexibleRunner, build_optim_wrapper, roots.build_runner_from_cfg, set_tta)


def _read_by_name() -> set[str]:
    """Return the keys that MMEngine and these tools take out of dicts themselves, as their sources say."""
    sources = ''.join(inspect.getsource(import_module(reader.__module__)) for reader in _READERS)
    passed = inspect.signature(Runner.set_randomness).parameters  # which gets the whole of ``randomness``
    return {*re.findall(r"\.(?:get|pop)\(\s*'(\w+)'", sources), *passed}


def find_types(node: dict, scope: str | None) -> list[Callable]:
    """Return the classes that ``type`` of a config dict may name, from all registries: usually one, or none."""
    name = node.get('type')
    if not isinstance(name, str):
        return [name] if callable(name) else []
    prefix, _, bare = name.rpartition('.')
    scope = prefix or node.get('_scope_', scope)
    if not isinstance(scope, str):
        scope = None
    with suppress(Exception):  # of whatever a user has named, and of that package's own
        import_module(f'{scope}.registry')
    trees = [(r.children.get(scope, r), r) for r in vars(roots).values() if isinstance(r, roots.Registry)]

    def registered() -> list[Callable]:
        return [cls for own, root in trees if (cls := own.module_dict.get(bare) or root.module_dict.get(bare))]

    for own, _ in () if registered() else trees:
        with suppress(ImportError):  # of something optional that this run may not need
            own.import_from_location()
    return registered()


def _arguments(targets: list[Callable]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return what classes or functions take, also where ``**kwargs`` leads to, and False if those may go elsewhere."""
    found, certain = {}, bool(targets)
    for target in targets:
        methods = [c.__dict__['__init__'] for c in getattr(target, '__mro__', ()) if '__init__' in c.__dict__]
        for function in methods if inspect.isclass(target) else [target]:
            parameters = inspect.signature(function).parameters
            renamed = {old: parameters[new] for old, new in old_names(function).items()}
            found = {**parameters, **renamed, **found}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                break
            certain = False
    return {n: p for n, p in found.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}, certain


def merge_options(cfg: Config, options: dict) -> Config:
    """Merge dotted options into a copy of a config.

    A parent that the config sets to None becomes a dict, so that ``model.backbone.init_cfg.type=Pretrained`` works. A
    new key of which nothing is known gives a warning.

    Raises:
        UserError: If a key resembles one that is there, is no argument of the class that is built there, has a parent
            that does not exist, goes through something that is not a dict or has no such index, or has more than
            :data:`DEEPEST` parts.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli.options import merge_options
        >>> cfg = Config(dict(train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=10)))
        >>> merge_options(cfg, {'train_cfg.val_begin': 5}).train_cfg.val_begin
        5
    """
    for key in options:
        parts = key.count('.') + 1
        if parts > DEEPEST:
            problem = f'--cfg-options {key[:40]}...: a setting in {parts} dicts, one in the other'
            raise UserError(problem, f'name one that {DEEPEST} or fewer hold')
    merged = copy.deepcopy(cfg)
    new = [(key, *_leave(merged._cfg_dict, key.split('.'), f'--cfg-options {key}')) for key in options]
    try:
        merged.merge_from_dict(options)
    except Exception as error:  # which of them depends on what the words are, and in which order
        raise UserError(f'--cfg-options {" ".join(options)}: {error}', 'name settings that the config has') from error
    for key, path, beside in new:
        top = key.split('.')[0]
        if path != key.split('.'):
            _judge(key, path, beside, merged)
        if top in cfg and top not in _read_by_name() | _arguments([Runner])[0].keys():
            problem = f'{top} is only a variable of the config file, whose value has been copied already'
            warn(f'--cfg-options {key}: {problem}; name what uses it, e.g. train_dataloader.dataset.data_root')
    return merged


def _leave(node: object, parts: list[str], option: str) -> tuple[list[str], set[str]]:
    """Return where a key leaves the config, and the keys that are there; a None on its way becomes a dict."""
    for place, part in enumerate(parts):
        where = '.'.join(parts[:place]) or 'the config'
        if isinstance(node, list):
            if not part.isdecimal() or len(part) > 9 or int(part) >= len(node):
                problem = f'{where} is a list of {len(node)} and has no index {part!r}'
                raise UserError(f'{option}: {problem}', f'use 0 to {len(node) - 1}')
        elif not isinstance(node, dict):
            raise UserError(f'{option}: {where} is {node!r}, not a dict', f'set {where} itself')
        elif part not in node:
            return parts[:place], set(node)
        elif node[part] is None and place < len(parts) - 1:
            node[part] = ConfigDict()
        node = node[part] if isinstance(node, dict) else node[int(part)]
    return parts, set()


def _dict(value: object) -> dict:
    return value if isinstance(value, dict) else {}


def _judge(key: str, path: list[str], beside: set[str], merged: Config) -> None:
    """Raise or warn if nothing may read what ``key`` adds at ``path``, where the config has the keys ``beside``."""
    node, scope = merged._cfg_dict, merged.get('default_scope')
    for step in path:
        try:
            node = node[step] if isinstance(node, dict) else node[int(step)]
        except (LookupError, TypeError, ValueError):  # another option has put something else in its place
            return
        scope = node.get('_scope_', scope) if isinstance(node, dict) else scope
    if not isinstance(node, dict):
        return
    part, *rest = key.split('.')[len(path) :]
    targets = find_types(node, scope) if path else [Runner]
    arguments, certain = _arguments(targets)
    in_model = path[:1] == ['model']
    read = {'type', '_scope_', '_delete_', *arguments, *(() if in_model else _read_by_name())}
    if part not in read and (targets or beside):
        # The config may have variables. Functions build layers, and take some keys out first (norm_cfg.requires_grad).
        certain = certain and bool(path) and not (in_model and path[-1].endswith('_cfg'))
        names, wrong = (
            sorted(arguments.keys() | beside),
            certain or bool(rest and not (path and 'type' in _dict(node.get(part)))),
        )
        reader = targets[0].__name__ if targets and path else '.'.join(path) or 'the config'
        close = difflib.get_close_matches(part, names, n=1, cutoff=0.6 if wrong else 0.85)
        if close or wrong:
            hint = f'did you mean {".".join((*path, *close))}?' if close else f'known are {", ".join(names[:12])}'
            raise UserError(f'--cfg-options {key}: {reader} has no {part!r}', hint)
        warn(f'--cfg-options {key}: {reader} has had no {part!r} so far; make sure that something reads it')
    if rest:
        default = arguments[part].default if part in arguments else None
        _judge(key, [*path, part], set(default) if isinstance(default, dict) else set(), merged)
