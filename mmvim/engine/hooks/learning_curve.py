"""A picture of how a training went: loss and scores over the iterations."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvim.analysis.curves import Curve, plot_curves
from mmvim.registry import HOOKS

_KEY = 'learning_curve'
_POINTS = 400
_PAUSE = 60  # seconds between two drawings of a training that goes on
# What is drawn of the metrics of a validation, the first group of which one is there, and what its axis says.
_SCORES = (
    (('mIoU',), 'mIoU (%)', 1.0),
    (('coco_panoptic/PQ',), 'PQ (%)', 1.0),
    (('coco/bbox_mAP', 'coco/segm_mAP'), 'mAP (%)', 100.0),
    (('accuracy/top1',), 'accuracy (%)', 1.0),
)


@HOOKS.register_module()
class LearningCurveHook(Hook):
    """Draw loss and scores of a training over its iterations, at the end and with a checkpoint once a minute.

    The loss is the mean of all iterations between two points of the curve. Scores are mIoU, PQ, the mAP of boxes and
    masks or the accuracy, else the first metric of the validation; ``val_loss`` of :class:`mmvim.ValLossHook` stands
    beside the training's. The curve is kept in checkpoints, so that a resumed run draws all of it.

    ``mmvim train`` has this hook unless the config has its own.

    Args:
        filename: Of the PNG file, in the work dir. Defaults to 'learning_curve.png'.

    Raises:
        ValueError: If ``filename`` does not end in ``.png`` or names a folder.

    Examples:
        >>> from mmvim.registry import HOOKS
        >>> hook = HOOKS.build(dict(type='LearningCurveHook'))  # an item of custom_hooks in a config
        >>> hook.filename
        'learning_curve.png'
    """

    priority = 'LOW'  # after RuntimeInfoHook, before the checkpoints (VERY_LOW)

    def __init__(self, filename: str = 'learning_curve.png') -> None:
        if not filename.endswith('.png') or Path(filename).name != filename:
            raise ValueError(f'filename={filename!r} must be the name of a .png file')
        self.filename = filename
        self._losses: list[tuple[int, float]] = []
        self._metrics: list[tuple[int, dict[str, float]]] = []
        self._sum, self._count, self._every = 0.0, 0, 1
        self._drawn = time.monotonic()

    def before_train(self, runner: Runner) -> None:
        """Choose how many iterations a point stands for."""
        self._every = max(1, runner.max_iters // _POINTS)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Add the loss."""
        loss = runner.message_hub.log_scalars.get('train/loss')
        if loss is None:
            return
        self._sum, self._count = self._sum + float(loss.current()), self._count + 1
        if (runner.iter + 1) % self._every == 0 or runner.iter + 1 == runner.max_iters:
            self._losses.append((runner.iter + 1, self._sum / self._count))
            self._sum, self._count = 0.0, 0

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, Any] | None = None) -> None:
        """Keep the scores."""
        if getattr(runner, '_train_loop', None) is None or isinstance(runner._train_loop, dict):
            return  # an evaluation by itself has no curve
        numbers = {
            name: float(value) for name, value in (metrics or {}).items() if isinstance(value, (int, float, np.number))
        }
        if numbers:
            self._metrics.append((runner.iter, numbers))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Draw, and keep the curve beside the model."""
        checkpoint[_KEY] = {'losses': self._losses, 'metrics': self._metrics, 'open': (self._sum, self._count)}
        if time.monotonic() - self._drawn > _PAUSE:
            self._draw(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the curve up where a training is resumed."""
        if runner._resume and _KEY in checkpoint:
            kept = checkpoint[_KEY]
            self._losses = [tuple(point) for point in kept['losses']]
            self._metrics = [tuple(point) for point in kept['metrics']]
            self._sum, self._count = kept['open']

    def after_train(self, runner: Runner) -> None:
        """Draw."""
        self._draw(runner)

    def _draw(self, runner: Runner) -> None:
        losses = {'training': _curve(self._losses)} if self._losses else {}
        val_losses = [(step, numbers['val_loss']) for step, numbers in self._metrics if 'val_loss' in numbers]
        if val_losses:
            losses['validation'] = _curve(val_losses)
        scores, label = self._scores()
        if not is_main_process() or not (losses or scores):
            return
        self._drawn = time.monotonic()
        path = Path(runner.work_dir, self.filename)
        try:
            plot_curves(path, losses, scores, score_name=label, title=runner.experiment_name)
        except OSError as error:  # a figure is not worth a run
            runner.logger.warning(f'{path} cannot be written ({error.strerror})')

    def _scores(self) -> tuple[dict[str, Curve], str]:
        names = [name for _, numbers in self._metrics for name in numbers if 'loss' not in name]
        wanted, label, factor = next(
            (group for group in _SCORES if any(name in names for name in group[0])),
            (tuple(names[:1]), names[0] if names else '', 1.0),
        )
        found = {}
        for name in wanted:
            points = [(step, factor * numbers[name]) for step, numbers in self._metrics if name in numbers]
            if points:
                found[name.rpartition('/')[2]] = _curve(points)
        return found, label


def _curve(points: list[tuple[int, float]]) -> Curve:
    """Return points by rising step, the last value where one occurs twice, without what is not finite."""
    kept = {step: value for step, value in points if math.isfinite(value)}
    steps = sorted(kept)
    return Curve(np.array(steps, np.int64), np.array([kept[step] for step in steps], np.float64))
