"""Merging of ``--cfg-options``, which refuses a key that nothing would read.

MMEngine creates whatever key it is given, so ``modle.backbone.depth=2`` would silently change nothing.
"""

import copy
import difflib
import inspect

from mmengine.config import Config, ConfigDict
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from torch.utils.data import DataLoader

from mmvim.cli.errors import UserError, warn
from mmvim.cli.signatures import accepted_arguments, find_type

# Read by Config, by the runner from its config, by MMSegmentation's and MMDetection's tools, or by these tools.
_TOP_LEVEL = {
    'custom_imports',
    'runner_type',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'sync_bn',
    'compile',
    'activation_checkpointing',
    'efficient_conv_bn_eval',
    'tta_model',
    'tta_pipeline',
    'strategy',
}
_DATALOADER = {
    'dataset',
    'sampler',
    'batch_sampler',
    'collate_fn',
    'worker_init_fn',
    'num_batch_per_epoch',
    'disable_subprocess_warning',
}
# Keys that MMEngine removes from a dict before it builds the rest.
_TAKEN_OUT = {
    'optim_wrapper': {'constructor', 'paramwise_cfg', 'optimizer'},
    'param_scheduler': {'convert_to_iter_based'},
    'default_hooks': {'priority'},
    'custom_hooks': {'priority'},
}
_LOOPS = {'train_cfg': (EpochBasedTrainLoop, IterBasedTrainLoop), 'val_cfg': (ValLoop,), 'test_cfg': (TestLoop,)}
_ALWAYS = {'type', '_scope_', '_delete_'}
# Dicts whose keys the user invents: the other keys say nothing about a new one.
_FREE_NAMES = ('custom_keys', 'meta', 'metainfo', 'init_kwargs')
_TYPO = 0.85


def _arguments(*targets: type) -> set[str]:
    return set().union(*(accepted_arguments(target)[0] for target in targets))


def _readers(path: tuple[str, ...]) -> set[str] | None:
    """Return the keys that are read from an untyped dict at ``path``; None if any may be."""
    if not path:
        return set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | _TOP_LEVEL
    if len(path) == 1:
        if path[0] in _LOOPS:
            return _arguments(*_LOOPS[path[0]]) | {'by_epoch'}
        if path[0] in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            return _arguments(DataLoader) | _DATALOADER
        if path[0] == 'randomness':
            return set(inspect.signature(Runner.set_randomness).parameters) - {'self'}
        if path[0] == 'env_cfg':
            return {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'}
        if path[0] == 'auto_scale_lr':
            return {'enable', 'base_batch_size'}
    return None


def merge_options(cfg: Config, options: dict) -> Config:
    """Merge dotted options into a config.

    A parent that the config sets to None becomes a dict, so that ``model.backbone.init_cfg.type=Pretrained`` works.

    Args:
        cfg: The config, left as it is.
        options: Dotted keys and their values.

    Returns:
        The merged config.

    Raises:
        UserError: If a key names neither something in the config nor an argument of what the config builds there, if
            an index is out of range, or if a key goes through a value that is not a dict or list.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli import UserError
        >>> from mmvim.cli.options import merge_options
        >>> cfg = Config(dict(train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=10)))
        >>> merge_options(cfg, {'train_cfg.val_begin': 5}).train_cfg.val_begin
        5
        >>> try:
        ...     merge_options(cfg, {'train_cfg.max_epoch': 5})
        ... except UserError as error:
        ...     print(error)
        --cfg-options train_cfg.max_epoch: EpochBasedTrainLoop has no 'max_epoch'; did you mean train_cfg.max_epochs?
    """
    if not options:
        return cfg
    merged = copy.deepcopy(cfg)
    for key in options:
        _open_none(merged, key)
    try:
        merged.merge_from_dict(options)
    except (TypeError, KeyError) as error:  # _check_path names the common causes better, where it can
        for key in options:
            _check_path(cfg, cfg, key)
        raise UserError(
            f'--cfg-options {" ".join(options)} cannot be merged: {error}', 'name settings that the config has'
        ) from error
    for key in options:
        _check_path(cfg, merged, key)
        top = key.split('.')[0]
        if top in cfg and top not in _readers(()):
            warn(
                f'--cfg-options {key}: {top} is only a variable of the config file, whose value has been copied '
                'already; name the setting that uses it, e.g. train_dataloader.dataset.data_root'
            )
    return merged


def _open_none(cfg: Config, key: str) -> None:
    node = cfg._cfg_dict
    for part in key.split('.')[:-1]:
        if isinstance(node, dict) and part in node and node[part] is None:
            node[part] = ConfigDict()
        try:
            node = node[int(part)] if isinstance(node, (list, tuple)) else node[part]
        except (KeyError, IndexError, ValueError, TypeError):
            return


def _check_path(cfg: Config, merged: Config, key: str) -> None:
    """Follow ``key`` through ``cfg``; where the key leaves the config, check what ``merged`` builds there."""
    node, built, path = cfg._cfg_dict, merged._cfg_dict, ()
    scope = merged.get('default_scope')
    for part in key.split('.'):
        where = '.'.join(path) or 'the config'
        if node is None or built is None:
            return
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(
                    f'--cfg-options {key}: {where} is a list of {len(node)} and has no index {part!r}',
                    f'use 0 to {len(node) - 1}',
                )
            part = int(part)
        elif isinstance(node, dict):
            scope = built.get('_scope_', scope)
            if part not in node:
                _check_new(key, part, node, built, path, scope)
                node = {part: {}}  # go on: the dict that the option makes has its own readers
        else:
            raise UserError(f'--cfg-options {key}: {where} is {node!r}, not a dict', f'set {where} itself')
        node, built, path = node[part], built[part], (*path, str(part))


def _check_new(key: str, part: str, node: dict, built: dict, path: tuple[str, ...], scope: str) -> None:
    if part in _ALWAYS:
        return
    where = '.'.join(path) or 'the config'
    target = find_type(built, path, scope)
    if target is not None:
        known, complete = accepted_arguments(target)
        known |= _TAKEN_OUT.get(path[0], set())
        # Layers are built by functions that take some keys out first, e.g. requires_grad of norm_cfg.
        complete = complete and not (path[0] == 'model' and path[-1].endswith('_cfg'))
        reader = target.__name__
    else:
        known, complete, reader = _readers(path), True, where
        if known is None:
            if path and path[-1] in _FREE_NAMES:
                return
            known, complete = set(), False
    if part in known:
        return
    siblings = {str(name) for name in node} - _ALWAYS
    close = difflib.get_close_matches(part, sorted(known | siblings), n=1, cutoff=0.6 if complete else _TYPO)
    if complete or close:
        hint = f'did you mean {".".join((*path, close[0]))}?' if close else f'known are {_listed(known | siblings)}'
        raise UserError(f'--cfg-options {key}: {reader} has no {part!r}', hint)


def _listed(names: set[str], limit: int = 12) -> str:
    listed = sorted(names)
    return ', '.join(listed[:limit]) + (', ...' if len(listed) > limit else '')
