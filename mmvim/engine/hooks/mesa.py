"""MESA: a classifier is kept close to the moving average of itself, which leads to flat minima."""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import ExponentialMovingAverage, is_model_wrapper
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor, nn

from mmvim.registry import HOOKS

_KEY = 'mesa_state_dict'


def trajectory_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Mean over the batch of the divergence of `logits` from `target`, both softened.

    Args:
        logits (Tensor): (B, classes), of the model.
        target (Tensor): (B, classes), of its average; no gradient goes there.
        temperature (float): What both are divided by before the softmax.

    Returns:
        Tensor: A float32 scalar.
    """
    soft, wanted = (F.log_softmax(x.float() / temperature, dim=1) for x in (logits, target.detach()))
    return F.kl_div(soft, wanted, reduction='batchmean', log_target=True)


@HOOKS.register_module()
class MESAHook(Hook):
    """Add MESA's trajectory loss to the losses of a classifier ("Sharpness-Aware Training for Free", Sec. 3.3, Eq. 12).

    The exponential moving average of the model, in eval mode, sees the same augmented pictures; the divergence of the
    model's softened classes from the average's is one loss more, ``loss_mesa``. It costs a second model's memory and a
    forward pass. The model is left as it is: names in checkpoints stay, and it is the model that is evaluated; the
    average lies beside it in the checkpoint, for resuming.

    For classifiers as MMPreTrain's: a `head` whose output is the logits, and ``forward(inputs, data_samples, mode)``,
    logits in mode 'tensor', a dict of losses in mode 'loss'. Source: https://arxiv.org/abs/2205.14083.

    Args:
        weight (float): What the loss is multiplied by, positive. Defaults to 0.8, the paper's.
        temperature (float): Divides the logits, positive. Defaults to 5, the paper's.
        begin_epoch (int): Epochs without the loss; the average runs from the start. A training that counts iterations
            has no epochs: 0 then. Defaults to 5, the paper's.
        momentum (float): Share of the model in each update of the average, in (0, 0.1): one minus the paper's decay,
            which could not be verified. Defaults to 0.0002, MMEngine's.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self, weight: float = 0.8, temperature: float = 5.0, begin_epoch: int = 5, momentum: float = 0.0002
    ) -> None:
        for name, value in (('weight', weight), ('temperature', temperature)):
            if not value > 0:
                raise ValueError(f'{name} must be positive, got {value}')
        if begin_epoch < 0:
            raise ValueError(f'begin_epoch must be 0 or greater, got {begin_epoch}')
        if not 0 < momentum < 0.1:
            raise ValueError(f'momentum must be in (0, 0.1), got {momentum}')
        self.weight, self.temperature = weight, temperature
        self.begin_epoch, self.momentum = begin_epoch, momentum
        self.average: ExponentialMovingAverage | None = None
        self._active = False
        self._logits: Tensor | None = None
        self._stored: dict | None = None
        self._handles: list[Any] = []

    def before_train(self, runner) -> None:
        """Start the average, from a checkpoint if training is resumed, and listen to the model.

        Raises:
            TypeError: If the model is no classifier with a head.
            ValueError: If the loss would never begin.
        """
        if self.begin_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                f'MESAHook: begin_epoch={self.begin_epoch} never comes in a training that counts '
                'iterations; train by epoch, or set begin_epoch=0'
            )
        model = _inner(runner)
        head = getattr(model, 'head', None)
        if not isinstance(head, nn.Module):
            raise TypeError(f'MESAHook is for classifiers with a head, and {type(model).__name__} has none')
        self.average = ExponentialMovingAverage(model, momentum=self.momentum)
        if self._stored is not None:
            self.average.load_state_dict(self._stored)
            self._stored = None
        self.average.module.eval()
        # After the copy, which has no part in this.
        self._handles = [
            head.register_forward_hook(self._keep),
            model.register_forward_hook(self._add, with_kwargs=True),
        ]

    def before_train_epoch(self, runner) -> None:
        """Whether the loss has begun."""
        self._active = runner.epoch >= self.begin_epoch

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Update the average."""
        assert self.average is not None
        self.average.update_parameters(_inner(runner))

    def after_train(self, runner) -> None:
        """Leave the model alone."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Put the average beside the model."""
        if self.average is not None:
            checkpoint[_KEY] = self.average.state_dict()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep the average of a training that is resumed; one that only starts from weights has its own."""
        if runner._resume:
            self._stored = checkpoint.get(_KEY)

    def _keep(self, head: nn.Module, args: tuple, output: Tensor) -> None:
        self._logits = output if self._active and head.training else None

    def _add(self, model: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        mode = kwargs.get('mode', args[2] if len(args) > 2 else 'tensor')
        if not self._active or mode != 'loss':
            return
        assert self.average is not None
        if self._logits is None:
            raise TypeError(f'MESAHook found no logits: the loss of {type(model).__name__} does not call its head')
        inputs = kwargs['inputs'] if 'inputs' in kwargs else args[0]
        with torch.no_grad():
            target = self.average.module(inputs, mode='tensor')
        output['loss_mesa'] = self.weight * trajectory_loss(self._logits, target, self.temperature)
        self._logits = None


def _inner(runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
