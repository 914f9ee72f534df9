"""Losses and gradients that are not finite: end the run with the names of the pictures, or leave the step out."""

import math
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmvim.registry import HOOKS

SKIPPED = 'skipped_steps'
_SHOWN = 8


class NonFiniteLossError(FloatingPointError):
    """Error for a training whose loss or gradients are not finite.

    Args:
        problem: What is not finite, in which iteration and on which pictures.
        remedy: What to do about it.

    Examples:
        >>> from mmvim.engine.hooks import NonFiniteLossError
        >>> print(NonFiniteLossError('the loss of iteration 3 is nan', 'lower the learning rate'))
        the loss of iteration 3 is nan; lower the learning rate
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f'{problem}; {remedy}')
        self.problem, self.remedy = problem, remedy


def picture_names(batch: Any) -> list[str]:
    """Return the files of the pictures in a batch, as far as its samples name them.

    Args:
        batch: What a data loader yields: samples of MMEngine's ``BaseDataElement``, in dicts and lists.

    Examples:
        >>> from mmengine.structures import BaseDataElement
        >>> from mmvim.engine.hooks.nonfinite import picture_names
        >>> samples = [BaseDataElement(metainfo=dict(img_path=name)) for name in ('a.jpg', 'b.jpg')]
        >>> picture_names({'inputs': [], 'data_samples': samples})
        ['a.jpg', 'b.jpg']
    """
    return list(dict.fromkeys(_paths(batch)))


def _paths(node: Any) -> Iterator[str]:
    if isinstance(node, BaseDataElement):
        path = node.get('img_path')
        yield from [str(item) for item in path] if isinstance(path, (list, tuple)) else [str(path)] if path else []
    elif isinstance(node, dict):
        for child in node.values():
            yield from _paths(child)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from _paths(child)


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Catch a loss or a gradient that is NaN or infinite before it reaches the weights.

    Each iteration the loss is looked at before the backward pass, and the gradients before the optimizer's step: a
    finite loss may have gradients that are not, which make the next loss NaN, on pictures that are innocent. All
    processes of a run decide together. In a step that is left out the weights, the optimizer's state, the loss scale
    and the running statistics of batch norms stay as they are, while schedules go on. Where gradients are accumulated,
    one bad batch spoils the whole step that it is a part of. With ``AmpOptimWrapper`` gradients are left to its loss
    scaling, if that is on, which skips such steps itself.

    This reads one number from the device each iteration, and so waits for the forward pass.

    Args:
        action: 'stop' ends the run with an error that names the losses and the batch's pictures; 'skip' leaves the step
            out, logs the same and goes on. Defaults to 'stop'.
        limit: After how many steps that were left out in a row the run ends nevertheless. Defaults to 10.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: When training begins, if the model is trained by several optimizers.
        NonFiniteLossError: While training, if the loss or a gradient is not finite and is to be an error.

    Examples:
        >>> from mmvim.registry import HOOKS
        >>> # in a config: custom_hooks = [dict(type='mmvim.NonFiniteLossHook', action='skip')]
        >>> hook = HOOKS.build(dict(type='NonFiniteLossHook', action='skip'))
        >>> hook.action, hook.limit
        ('skip', 10)
    """

    priority = 'HIGH'  # before hooks that log, average weights or save

    def __init__(self, action: str = 'stop', limit: int = 10) -> None:
        if action not in ('stop', 'skip'):
            raise ValueError(f"action={action!r} must be 'stop' or 'skip'")
        if limit < 1:
            raise ValueError(f'limit={limit} must be 1 or more steps')
        self.action, self.limit = action, limit
        self._in_row = 0
        self._found: str | None = None  # what is not finite in this iteration
        self._weights: list[str] = []  # whose gradients
        self._spoiled = False  # the step that gradients are accumulated for
        self._left_out = False  # it has been counted
        self._pictures: list[str] = []  # of the step
        self._statistics: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._wrapper: OptimWrapper | None = None

    def before_train(self, runner: Runner) -> None:
        """Stand between the model and its optimizer.

        Args:
            runner: The runner of the training.
        """
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):
            kind = type(wrapper).__name__
            raise TypeError(f'NonFiniteLossHook is for models with one optimizer; this has {kind}: leave the hook out')
        self._wrapper, self._model = wrapper, runner.model
        self._norms = [
            buffer
            for module in runner.model.modules()
            if isinstance(module, _NormBase)
            for buffer in module.buffers(recurse=False)
        ]
        self._replaced = {name: vars(wrapper).get(name) for name in ('update_params', 'step')}
        update, step = wrapper.update_params, wrapper.step

        @wraps(update)
        def guarded_update(loss: Tensor, *args: Any, **options: Any) -> None:
            self._update(update, loss, *args, **options)

        @wraps(step)  # with the mark that it is counted, for which schedulers look
        def guarded_step(*args: Any, **options: Any) -> None:
            self._step(step, *args, **options)

        wrapper.update_params, wrapper.step = guarded_update, guarded_step

    def after_train(self, runner: Runner) -> None:
        """Leave the optimizer as it was."""
        if self._wrapper is not None:
            for name, own in self._replaced.items():
                delattr(self._wrapper, name)
                if own is not None:
                    setattr(self._wrapper, name, own)
            self._wrapper = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note the batch's pictures, and the statistics of batch norms before it.

        Args:
            runner: The runner of the training.
            batch_idx: Number of the batch.
            data_batch: The batch, as the data loader yields it.
        """
        self._found = None
        self._pictures += picture_names(data_batch)
        self._statistics = (self._norms, [buffer.clone() for buffer in self._norms])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Stop, or count.

        Args:
            runner: The runner of the training.
            batch_idx: Number of the batch.
            data_batch: The batch.
            outputs: The losses by name.
        """
        found, complete = self._found, self._wrapper is None or self._wrapper.should_update()
        pictures = self._pictures if found == 'gradients' else picture_names(data_batch)
        first, self._left_out = not self._left_out, (self._left_out or found is not None) and not complete
        if complete:
            self._pictures = []
            self._in_row = 0 if found is None and first else self._in_row
        if found is None:
            return
        for buffer, before in zip(*self._statistics, strict=True):
            buffer.copy_(before)
        text = self._describe(runner, found, outputs or {}, pictures)
        count = runner.message_hub.runtime_info.get(SKIPPED, 0)
        if first:  # a step that gradients are accumulated for counts once
            self._in_row, count = self._in_row + 1, count + 1
        if self.action == 'stop' or self._in_row > self.limit:
            more = f' ({self._in_row} steps in a row, of which this is the last)' if self.action == 'skip' else ''
            raise NonFiniteLossError(
                f'{text}{more}',
                'look at these pictures and their labels, lower the learning rate or clip gradients; '
                "mmvim.NonFiniteLossHook(action='skip') leaves single such steps out",
            )
        runner.message_hub.update_info(SKIPPED, count)
        runner.logger.warning(f'{text}; the step is left out, {count} so far')

    def _update(self, update: Callable, loss: Tensor, *args: Any, **options: Any) -> None:
        finite = _agreed(loss.detach().isfinite().all(), loss.device)
        if not finite:
            self._found = 'loss'
        if finite and not self._spoiled:
            update(loss, *args, **options)
            return
        wrapper = self._wrapper
        assert wrapper is not None
        wrapper._inner_count += 1  # as its ``backward`` does: the iteration counts
        self._spoiled = not wrapper.should_update()
        if not self._spoiled:
            wrapper.zero_grad()

    def _step(self, step: Callable, *args: Any, **options: Any) -> None:
        wrapper = self._wrapper
        assert wrapper is not None
        scaler = getattr(wrapper, 'loss_scaler', None)
        if scaler is None or not scaler.is_enabled():  # else it skips such steps itself
            parameters = [p for group in wrapper.optimizer.param_groups for p in group['params'] if p.grad is not None]
            gradients = [p.grad for p in parameters if p.grad.numel() and not p.grad.is_sparse]
            if gradients:
                norms = torch.stack(
                    [n.to(gradients[0].device, torch.float32) for n in torch._foreach_norm(gradients, float('inf'))]
                )
                if not _agreed(norms.isfinite().all(), norms.device):
                    self._found, self._weights = 'gradients', _names(self._model, parameters)
                    return
        step(*args, **options)

    def _describe(self, runner: Runner, found: str, outputs: dict, pictures: list[str]) -> str:
        """Say what is not finite, and on which pictures, whichever process has them."""
        losses = {name: float(value.detach()) for name, value in outputs.items() if isinstance(value, Tensor)}
        bad = {name: value for name, value in losses.items() if not math.isfinite(value)}
        parts = [name for name in bad if name != 'loss'] or list(bad)
        every = all_gather_object((', '.join(f'{name}={bad[name]}' for name in parts), pictures))
        if found == 'loss':
            every = [one for one in every if one[0]] or every  # the processes whose own loss it is
            values = ', '.join(dict.fromkeys(text for text, _ in every if text))
            text = f'the loss of iteration {runner.iter + 1} is not finite' + (f' ({values})' if values else '')
        else:
            text = f'gradients of iteration {runner.iter + 1} are not finite ({_some(self._weights, 3)}), its loss is'
        return f'{text}, on {_some([name for _, listed in every for name in listed], _SHOWN) or "unnamed pictures"}'


def _some(names: list[str], limit: int) -> str:
    names = list(dict.fromkeys(names))
    return ', '.join(names[:limit]) + (f' and {len(names) - limit} more' if len(names) > limit else '')


def _agreed(finite: Tensor, device: torch.device) -> bool:
    """Return whether all processes say so."""
    flag = finite.to(device, torch.int32).reshape(1)
    all_reduce(flag, op='min')
    return bool(flag.item())


def _names(model: nn.Module, parameters: list[Tensor]) -> list[str]:
    known = {id(parameter): name.removeprefix('module.') for name, parameter in model.named_parameters()}
    return [known.get(id(p), 'a weight') for p in parameters if not p.grad.isfinite().all()]
