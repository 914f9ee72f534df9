"""A progress bar for training: iteration, loss, score so far, time left."""

import logging
import sys

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mmvim.engine.progress import ProgressDisplay
from mmvim.registry import HOOKS


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Show the progress of training and evaluation on the console of the first process.

    In a terminal it draws bars, and log lines appear above them; elsewhere it prints a line now and then.

    Args:
        metric: Name of the validation score that is shown beside the loss. Defaults to 'mIoU'.
        window: Iterations over which the loss is averaged. Defaults to 20.
        parts: Lines per training where there is no terminal. Defaults to 20.

    Raises:
        ValueError: If ``window`` or ``parts`` is less than 1.

    Examples:
        >>> from mmvim.registry import HOOKS
        >>> hook = HOOKS.build(dict(type='ProgressBarHook', metric='coco/bbox_mAP'))  # an item of custom_hooks
        >>> hook.metric
        'coco/bbox_mAP'
    """

    priority = 'VERY_LOW'  # after RuntimeInfoHook, which records the loss

    def __init__(self, metric: str = 'mIoU', window: int = 20, parts: int = 20) -> None:
        if window < 1:
            raise ValueError(f'window must be 1 or greater, got {window}')
        self.metric, self.window = metric, window
        self.display = ProgressDisplay(parts=parts)
        self.score: float | None = None
        self._train_task: int | None = None
        self._val_task: int | None = None
        self._streams: list[tuple[logging.StreamHandler, object]] = []

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Start the display."""
        self.display.__enter__()
        if self.display.is_terminal:  # log lines must go through rich, or they would tear the bar
            for handler in MMLogger.get_current_instance().handlers:
                if type(handler) is logging.StreamHandler:
                    self._streams.append((handler, handler.setStream(sys.stderr)))
        self._train_task = self.display.add('Training', runner.max_iters)

    @master_only
    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Show iteration and mean loss."""
        assert self._train_task is not None
        note = []
        if outputs and 'loss' in outputs:
            loss = runner.message_hub.get_scalar('train/loss').mean(self.window)
            note.append(f'loss {float(loss):.3f}')
        if self.score is not None:
            note.append(f'{self.metric} {self.score:.1f}')
        self.display.update(self._train_task, runner.iter + 1, ', '.join(note))

    @master_only
    def before_val_epoch(self, runner: Runner) -> None:
        """Show the evaluation that interrupts training."""
        if self._train_task is not None and self.display.is_terminal:
            self._val_task = self.display.add('Evaluating', len(runner.val_dataloader))

    @master_only
    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None) -> None:
        """Show how far the evaluation is."""
        if self._val_task is not None:
            self.display.update(self._val_task, batch_idx + 1)

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Keep the score."""
        if self._val_task is not None:
            self.display.remove(self._val_task)
            self._val_task = None
        if metrics and self.metric in metrics:
            self.score = float(metrics[self.metric])

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Stop the display and give the log its stream back."""
        self.display.__exit__()
        self._train_task = None
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._streams.clear()
