"""MESA: keep a classifier close to its own moving average, which leads to flat minima."""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import ExponentialMovingAverage, is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor, nn

from mmvim.registry import HOOKS

_KEY = 'mesa_state_dict'


def trajectory_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Return the mean over the batch of the divergence of ``logits`` from ``target``, both softened.

    Args:
        logits: (B, classes), of the model.
        target: (B, classes), of its average; no gradient goes there.
        temperature: What both are divided by before the softmax.

    Returns:
        A float32 scalar.

    Examples:
        >>> import torch
        >>> from mmvim.engine.hooks.mesa import trajectory_loss
        >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
        >>> trajectory_loss(logits, logits, temperature=5.0)
        tensor(0.)
    """
    soft, wanted = (F.log_softmax(x.float() / temperature, dim=1) for x in (logits, target.detach()))
    return F.kl_div(soft, wanted, reduction='batchmean', log_target=True)


@HOOKS.register_module()
class MESAHook(Hook):
    """Add MESA's trajectory loss to the losses of a classifier ("Sharpness-Aware Training for Free", Sec. 3.3, Eq. 12).

    The exponential moving average of the model, in eval mode, also sees each batch of augmented images. How far the
    model's softened class probabilities diverge from the average's is added to the losses as ``loss_mesa``. This costs
    the memory of a second model and one more forward pass. The model itself is not changed: its checkpoints keep their
    names, and the model, not the average, is evaluated. The average is stored beside it in the checkpoint, for
    resuming.

    The hook works with classifiers built like MMPreTrain's: a ``head`` whose output is the logits, and
    ``forward(inputs, data_samples, mode)``, which returns logits in mode 'tensor' and a dict of losses in mode 'loss'.
    Source: https://arxiv.org/abs/2205.14083.

    Args:
        weight: What the loss is multiplied by, positive. Defaults to 0.8, the paper's.
        temperature: Divides the logits, positive. Defaults to 5, the paper's.
        begin_epoch: Epochs without the loss; the average runs from the start. Must be 0 for a training that counts
            iterations, which has no epochs. Defaults to 5, the paper's.
        momentum: Share of the model in each update of the average, in (0, 0.1): one minus the paper's decay, which
            could not be verified. Defaults to 0.0002, MMEngine's.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> from mmvim.registry import HOOKS
        >>> hook = HOOKS.build(dict(type='MESAHook', begin_epoch=10))  # an item of custom_hooks in a config
        >>> hook.weight, hook.temperature, hook.begin_epoch
        (0.8, 5.0, 10)
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

    def before_train(self, runner: Runner) -> None:
        """Start the average, from a checkpoint if training is resumed, and listen to the model.

        Args:
            runner: The runner of the training.

        Raises:
            TypeError: If the model is not a classifier with a head.
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
        # Registered after the copy, so that the average does not carry the hooks.
        self._handles = [
            head.register_forward_hook(self._keep),
            model.register_forward_hook(self._add, with_kwargs=True),
        ]

    def before_train_epoch(self, runner: Runner) -> None:
        """Switch the loss on once ``begin_epoch`` is reached."""
        self._active = runner.epoch >= self.begin_epoch

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Update the average."""
        assert self.average is not None
        self.average.update_parameters(_inner(runner))

    def after_train(self, runner: Runner) -> None:
        """Stop listening to the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the average beside the model."""
        if self.average is not None:
            checkpoint[_KEY] = self.average.state_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the average of a training that is resumed; one that only starts from weights makes its own."""
        if runner._resume:
            self._stored = checkpoint.get(_KEY)

    def _keep(self, head: nn.Module, args: tuple, output: Tensor) -> None:
        self._logits = output if self._active and head.training else None

    def _add(self, model: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        mode = kwargs.get('mode', args[2] if len(args) > 2 else 'tensor')
        if not self._active or mode != 'loss' or not model.training:
            return
        assert self.average is not None
        if self._logits is None:
            raise TypeError(f'MESAHook found no logits: the loss of {type(model).__name__} does not call its head')
        inputs = kwargs['inputs'] if 'inputs' in kwargs else args[0]
        with torch.no_grad():
            target = self.average.module(inputs, mode='tensor')
        output['loss_mesa'] = self.weight * trajectory_loss(self._logits, target, self.temperature)
        self._logits = None


def _inner(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
