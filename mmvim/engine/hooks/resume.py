"""Resume with the learning rates of the config where the checkpoint has others."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmvim.registry import HOOKS

WORLD_SIZE = 'world_size'


def toy_optimizer(groups: Sequence[dict]) -> torch.optim.Optimizer:
    """Return an optimizer of one number a group, on which schedules can be tried.

    Args:
        groups: Parameter groups of a real optimizer, or of its state; each starts from its initial values.

    Examples:
        >>> toy = toy_optimizer([{'params': [0, 1], 'lr': 0.0, 'initial_lr': 0.1, 'weight_decay': 0.05}])
        >>> toy.param_groups[0]['lr'], toy.param_groups[0]['weight_decay']
        (0.1, 0.05)
    """
    fresh = []
    for group in groups:
        own = {name: value for name, value in group.items() if name != 'params' and not name.startswith('initial_')}
        own.update({name.removeprefix('initial_'): group[name] for name in group if name.startswith('initial_')})
        fresh.append({'params': [torch.zeros((), requires_grad=True)], **own})
    return torch.optim.SGD(fresh, lr=0.0)


def advance(schedulers: Sequence, iterations: int, epoch_length: int) -> None:
    """Step schedulers as MMEngine's hook does in so many iterations of training.

    Args:
        schedulers: MMEngine's parameter schedulers, of any state.
        iterations: How many steps.
        epoch_length: Iterations of an epoch, from whose beginning the steps start.

    Examples:
        >>> from mmengine.optim import PolyLR
        >>> toy = toy_optimizer([{'params': [], 'initial_lr': 1.0}])
        >>> advance([PolyLR(toy, end=10, by_epoch=False)], iterations=5, epoch_length=100)
        >>> round(toy.param_groups[0]['lr'] * 9, 6)  # of 9 steps from 1 to 0 four are left
        4.0
    """
    for scheduler in schedulers:  # else a scheduler warns that no step of the optimizer came first
        scheduler.optimizer._global_step = 0
    for iteration in range(1, iterations + 1):
        for scheduler in schedulers:
            if not scheduler.by_epoch:
                scheduler.step()
        if iteration % epoch_length == 0:
            for scheduler in schedulers:
                if scheduler.by_epoch:
                    scheduler.step()


def by_name(state: dict, names: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> dict:
    """Rearrange an optimizer's state for a model that has only some of its parameters.

    Args:
        state: Of the optimizer: ``state`` and ``param_groups``.
        names: The names of the parameters in its groups.
        wanted: The names of the parameters in the groups of the optimizer that is to have the state.

    Returns:
        ``state`` and ``param_groups`` of that optimizer; each group has the settings that its first parameter had.

    Examples:
        >>> group = {'lr': 0.1, 'params': [0, 1]}
        >>> by_name({'state': {0: 'of a', 1: 'of b'}, 'param_groups': [group]}, [['a', 'b']], [['b']])
        {'state': {0: 'of b'}, 'param_groups': [{'lr': 0.1, 'params': [0]}]}
    """
    index = {
        name: (number, group)
        for listed, group in zip(names, state['param_groups'], strict=True)
        for name, number in zip(listed, group['params'], strict=True)
    }
    states, groups, count = {}, [], 0
    for listed in wanted:
        own = list(range(count, count + len(listed)))
        count += len(listed)
        states.update(
            (new, state['state'][index[name][0]])
            for new, name in zip(own, listed, strict=True)
            if index[name][0] in state['state']
        )
        groups.append({**index[listed[0]][1], 'params': own})
    return {'state': states, 'param_groups': groups}


class ResumeError(RuntimeError):
    """Error for processes of one run that do not go on from the same checkpoint.

    Args:
        problem: Which process begins where.
        remedy: What to do about it.

    Examples:
        >>> from mmvim.engine.hooks import ResumeError
        >>> print(ResumeError('process 0 begins at 2, process 1 at 0', 'copy the checkpoint'))
        process 0 begins at 2, process 1 at 0; copy the checkpoint
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f'{problem}; {remedy}')
        self.problem, self.remedy = problem, remedy


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


@HOOKS.register_module()
class ResumeHook(Hook):
    """Note in checkpoints what MMEngine does not, and on resuming take the schedule from the config if asked to.

    MMEngine resumes with the schedulers and the optimizer's settings of the checkpoint, whatever the config says: a
    longer training goes on with the learning rate at which the old schedule ended.

    Args:
        resume_with: 'checkpoint', MMEngine's way; or 'config': the config's schedule, as if it had been in force from
            the first iteration, and the config's settings of the optimizer. The optimizer's moments are the
            checkpoint's in either case. Defaults to 'checkpoint'.
        names: The names of the parameters in the groups of the checkpoint's optimizer, if they are not those of this
            model: the state of each parameter is then found by its name. Defaults to None, they are.

    Raises:
        ValueError: If ``resume_with`` is neither.

    Examples:
        >>> from mmvim.engine.hooks import ResumeHook
        >>> checkpoint = {'meta': {}}
        >>> ResumeHook().before_save_checkpoint(runner=None, checkpoint=checkpoint)
        >>> checkpoint['meta']
        {'world_size': 1}
    """

    def __init__(self, resume_with: str = 'checkpoint', names: Sequence[Sequence[str]] | None = None) -> None:
        if resume_with not in ('checkpoint', 'config'):
            raise ValueError(f"resume_with={resume_with!r} must be 'checkpoint' or 'config'")
        self.resume_with, self.names = resume_with, names

    def before_train(self, runner: Runner) -> None:
        """Check that all processes begin at the same iteration: a node may lack the checkpoint that the others have.

        Args:
            runner: The runner of the training.

        Raises:
            ResumeError: If they do not.
        """
        begun = all_gather_object(runner.iter)
        if len(set(begun)) > 1:
            raise ResumeError(
                f'the processes of this run begin at different iterations ({", ".join(map(str, begun))})',
                'each node needs the checkpoint that is resumed: copy last_checkpoint and the file it names to the '
                'others',
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note how many processes train."""
        checkpoint.setdefault('meta', {})[WORLD_SIZE] = get_world_size()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the config's schedule into the checkpoint, before MMEngine reads it from there."""
        if not runner._resume or 'optimizer' not in checkpoint:  # weights to start from
            return
        if self.names is None and self.resume_with != 'config':
            return
        groups = runner.optim_wrapper.optimizer.param_groups
        if self.names is not None:
            known = {id(parameter): name for name, parameter in _unwrapped(runner.model).named_parameters()}
            wanted = [[known[id(parameter)] for parameter in group['params']] for group in groups]
            checkpoint['optimizer'].update(by_name(checkpoint['optimizer'], self.names, wanted))
        if self.resume_with != 'config':
            return
        toy = toy_optimizer(groups)
        for group in toy.param_groups:  # MMEngine's schedulers note the initial values anew
            for name in [name for name in group if name.startswith('initial_')]:
                del group[name]
        schedulers = runner._build_param_scheduler(runner.cfg.param_scheduler, toy)
        advance(schedulers, checkpoint['meta']['iter'], len(runner.train_dataloader))
        checkpoint['param_schedulers'] = [scheduler.state_dict() for scheduler in schedulers]
        for kept, group in zip(checkpoint['optimizer']['param_groups'], toy.param_groups, strict=True):
            kept.update({name: value for name, value in group.items() if name in kept and name != 'params'})
