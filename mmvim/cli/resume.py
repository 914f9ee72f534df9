"""What resuming a run takes from the checkpoint although the config says otherwise.

MMEngine takes the schedulers and the optimizer's settings from the checkpoint, without a word if the config's differ.
"""

import copy
from collections.abc import Sequence
from inspect import signature
from typing import Any

from mmengine.config import Config
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn
from torch.optim import Optimizer

from mmvim.checkpoints import recorded_config
from mmvim.cli.errors import USAGE, UserError, warn
from mmvim.cli.model import build_model
from mmvim.cli.noise import quiet
from mmvim.engine.hooks.resume import WORLD_SIZE, ResumeHook, advance, toy_optimizer
from mmvim.models.backbones.base import Backbone

# What changes while a scheduler runs.
_RUNNING = {'last_step', '_global_step', '_last_value', 'base_values', 'verbose'}
_SHOWN = 6


def check_resumed(cfg: Config, model: nn.Module, checkpoint: dict, path: str, resume_with: str | None) -> ResumeHook:
    """Compare a checkpoint's schedule and optimizer with the config's, before anything is resumed.

    Args:
        cfg: The config.
        model: The model, as :func:`build_model` returns it.
        checkpoint: What :func:`read_checkpoint` returned, with ``meta`` and ``optimizer``.
        path: The file.
        resume_with: 'config' or 'checkpoint': whose schedule counts; None if the user has not said.

    Returns:
        The hook that makes MMEngine resume as the user wants.

    Raises:
        UserError: If the optimizer's state is that of another model; or if the user has not said what counts and the
            learning rate would be zero for a part of the run.
    """
    saved = checkpoint['optimizer'].get('param_groups')
    wrapper = None
    if saved is not None and 'runner_type' not in cfg:  # other runners have strategies that build theirs
        with quiet():
            wrapper = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
    if saved is None or wrapper is None or isinstance(wrapper, OptimWrapperDict):
        if resume_with == 'config':
            found = f'--resume {path} has several' if saved is None else 'the config has several'
            raise UserError(
                "--resume-with config needs MMEngine's Runner and one optimizer, and "
                + (f'the config has runner_type={cfg.runner_type!r}' if 'runner_type' in cfg else found),
                'leave it out',
                USAGE,
            )
        return ResumeHook()
    names = _saved_names(cfg, model, wrapper.optimizer, saved, path)
    length, unit = train_length(cfg)
    iteration = checkpoint['meta']['iter']
    epoch_length = max(iteration // checkpoint['meta']['epoch'], 1) if checkpoint['meta'].get('epoch') else 0
    schedulers = _schedulers(cfg, wrapper.optimizer.param_groups, length, unit, epoch_length)
    states = checkpoint.get('param_schedulers')
    states = states if isinstance(states, list) else []
    scaled = (cfg.get('auto_scale_lr') or {}).get('enable', False)
    differences = [
        *_of_run(cfg, checkpoint),
        *_of_schedulers(schedulers, states),
        *_of_groups(wrapper.optimizer.param_groups, saved, scaled),
    ]
    if differences and resume_with is None:
        stop = _stop(schedulers, states, saved, length if unit == 'iterations' else length * epoch_length, epoch_length)
        if stop is not None:
            raise UserError(
                f'the schedule in --resume {path} brings the learning rate to 0 at iteration {stop}, and this run goes '
                f'on to {length} {unit} ({"; ".join(differences[:_SHOWN])})',
                "--resume-with config takes the config's schedule, as if it had been in force from the beginning; "
                "--resume-with checkpoint goes on with the checkpoint's",
                USAGE,
            )
    if differences:
        taken = (
            "the config's" if resume_with == 'config' else "the checkpoint's (--resume-with config takes the config's)"
        )
        more = f'; and {len(differences) - _SHOWN} more' if len(differences) > _SHOWN else ''
        warn(
            f'--resume {path} differs from the config: {"; ".join(differences[:_SHOWN])}{more}; schedule and optimizer '
            f'settings are {taken}'
        )
    return ResumeHook(resume_with or 'checkpoint', names)


def train_length(cfg: Config) -> tuple[int, str]:
    """Return how long a config trains, and in what unit: 'iterations' or 'epochs'.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli.resume import train_length
        >>> train_length(Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=80000))))
        (80000, 'iterations')
    """
    train = cfg.get('train_cfg') or {}
    return (train['max_iters'], 'iterations') if train.get('max_iters') else (train.get('max_epochs', 0), 'epochs')


def _schedulers(cfg: Config, groups: Sequence[dict], length: int, unit: str, epoch_length: int) -> list:
    """Build the config's schedulers on a toy; none where their length in iterations is not known."""
    listed = cfg.get('param_scheduler') or []
    listed = [listed] if isinstance(listed, dict) else listed
    if not isinstance(listed, (list, tuple)) or any(
        s.get('convert_to_iter_based') and not epoch_length for s in listed
    ):
        return []
    toy, found = toy_optimizer(groups), []
    for scheduler in listed:
        settings = copy.deepcopy(dict(scheduler))
        if settings.get('by_epoch', True) == (unit == 'epochs'):  # else the runner's default depends on the data
            settings.setdefault('end', length)
        elif 'end' not in settings:
            return []
        found.append(
            PARAM_SCHEDULERS.build(settings, default_args={'optimizer': toy, 'epoch_length': epoch_length or 1})
        )
    return found


def _of_run(cfg: Config, checkpoint: dict) -> list[str]:
    """Compare the length of the run, its batches and its processes."""
    from mmengine.dist import get_world_size

    recorded = recorded_config(checkpoint)
    found = []
    for part, keys in (('train_cfg', ('max_iters', 'max_epochs')), ('train_dataloader', ('batch_size',))):
        then, now = recorded.get(part) or {}, cfg.get(part) or {}
        found += [_difference(f'{part}.{key}', then[key], now.get(key)) for key in keys if key in then]
    processes = checkpoint['meta'].get(WORLD_SIZE)
    if processes is not None:
        found.append(_difference('processes', processes, get_world_size()))
    return [text for text in found if text]


def _of_schedulers(schedulers: Sequence, states: Sequence[dict]) -> list[str]:
    if not schedulers:
        return []
    if len(schedulers) != len(states):
        return [_difference('schedulers', len(states), len(schedulers))]
    found = []
    for index, (scheduler, state) in enumerate(zip(schedulers, states, strict=True)):
        own = scheduler.state_dict()
        for key in own:
            if key not in _RUNNING and key in state:
                found.append(_difference(f'param_scheduler[{index}].{key}', state[key], own[key]))
    return [text for text in found if text]


def _of_groups(groups: Sequence[dict], saved: Sequence[dict], scaled: bool) -> list[str]:
    """Compare the settings of the optimizer's groups, the learning rates before any schedule among them.

    Those that the runner will yet scale by the batch size (``auto_scale_lr``) cannot be compared.
    """
    found = []
    scheduled = {name.removeprefix('initial_') for group in saved for name in group if name.startswith('initial_')}
    for key in dict.fromkeys(name for group in groups for name in group):
        if key == 'params' or key.startswith('initial_') or (scaled and key == 'lr'):
            continue
        before = [group.get(f'initial_{key}' if key in scheduled else key) for group in saved]
        after = [group.get(key) for group in groups]
        if len(before) == len(after):
            wrong = [i for i in range(len(after)) if before[i] is not None and _differ(before[i], after[i])]
            if wrong:
                text = _difference(f'{key} of the optimizer', before[wrong[0]], after[wrong[0]])
                found.append(text + (f' in {len(wrong)} of {len(after)} groups' if len(after) > 1 else ''))
    return found


def _difference(name: str, then: Any, now: Any) -> str:
    return f'{name} {then} in the checkpoint, {now} in the config' if _differ(then, now) else ''


def _differ(then: Any, now: Any) -> bool:
    if isinstance(then, float) and isinstance(now, (int, float)):
        return abs(then - now) > 1e-9 * max(abs(then), abs(now))
    if isinstance(then, (list, tuple)) and isinstance(now, (list, tuple)):
        return len(then) != len(now) or any(map(_differ, then, now))
    return then != now


def _stop(
    schedulers: Sequence, states: Sequence[dict], saved: Sequence[dict], end: int, epoch_length: int
) -> int | None:
    """Return the iteration before ``end`` at which the checkpoint's schedule has come to zero for good, if it does."""
    if len(schedulers) != len(states) or not schedulers or any(s.get('end') is None for s in states):
        return None
    length = epoch_length or 1
    last = max(state['end'] * (length if state.get('by_epoch') else 1) for state in states)
    if last >= end:
        return None
    largest = max(saved, key=lambda group: group.get('initial_lr', group.get('lr', 0.0)))
    (group,) = (toy := toy_optimizer([largest])).param_groups
    trial = []
    for scheduler, state in zip(schedulers, states, strict=True):
        one = copy.copy(scheduler)
        one.load_state_dict(copy.deepcopy(state))
        one.optimizer, one.base_values = toy, [group['lr']]
        one.last_step, one._global_step = -1, -1
        one.step()
        trial.append(one)
    advance(trial, last, length)
    return last if abs(group['lr']) <= 1e-9 * abs(largest.get('initial_lr', 1.0)) else None


def _names(model: nn.Module, optimizer: Optimizer) -> list[list[str]]:
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[known[id(parameter)] for parameter in group['params']] for group in optimizer.param_groups]


def _saved_names(
    cfg: Config, model: nn.Module, optimizer: Optimizer, saved: Sequence[dict], path: str
) -> list[list[str]] | None:
    """Return the names of the parameters that a checkpoint's optimizer knows, if they are not those of this model.

    Earlier versions built, and gave to the optimizer, the parts of a backbone that no output needs.

    Raises:
        UserError: If they are not known.
    """
    sizes = [len(group['params']) for group in saved]
    if sizes == [len(group['params']) for group in optimizer.param_groups]:
        return None
    known = _earlier_names(cfg, model)
    if sizes == [len(group) for group in known]:
        return known
    raise UserError(
        f'--resume {path} has the optimizer state of {sum(sizes)} weights in {len(sizes)} groups, and this model '
        f'trains {sum(len(g["params"]) for g in optimizer.param_groups)} in {len(optimizer.param_groups)}',
        f'give the config that it was trained with, or start from its weights: --cfg-options load_from={path}',
        USAGE,
    )


def _earlier_names(cfg: Config, model: nn.Module) -> list[list[str]]:
    """Return the names in the optimizer's groups where every part of the backbone is built and trained; [] if it is."""
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, Backbone) or 'build_unused' not in signature(type(backbone)).parameters:
        return []
    whole, part = copy.deepcopy(cfg), copy.deepcopy(cfg)
    whole.model.backbone.build_unused, part.model.backbone.build_unused = True, False
    with quiet():
        full, needed = build_model(whole), {name for name, _ in build_model(part).named_parameters()}
        for name, parameter in full.named_parameters():
            if name not in needed:
                parameter.requires_grad_(True)
        return _names(full, build_optim_wrapper(full, copy.deepcopy(cfg.optim_wrapper)).optimizer)
