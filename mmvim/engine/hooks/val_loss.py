"""The loss on the validation set, and the end of a training that no longer lowers it."""

import copy
import math
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmvim.engine.hooks.random_state import capture_random_state, restore_random_state
from mmvim.registry import HOOKS

_KEY = 'val_loss'
_AS_THEY_ARE = '^(?!(?:val/)?val_)'
# What loads annotations, and not a picture.
_ANNOTATIONS = re.compile(r'Load(?!Empty|Image|Multi|Proposals)\w+')


def loss_pipeline(validation: Sequence[dict], training: Sequence[dict]) -> list[dict]:
    """Return a validation pipeline with the annotations that a loss needs: those of training, before any resizing.

    MMDetection's validation pipelines load boxes, and not masks, after the picture has been resized, so that they do
    not fit it; MMSegmentation's load the label map at the size that the metric compares at.

    Args:
        validation: The transforms of validation.
        training: Those of training, whose loaders of annotations are taken; validation's own where it has none.

    Returns:
        The transforms, new dictionaries.

    Examples:
        >>> from mmvim.engine.hooks.val_loss import loss_pipeline
        >>> validation = [dict(type='LoadImageFromFile'), dict(type='Resize'), dict(type='LoadAnnotations')]
        >>> training = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_mask=True)]
        >>> [step['type'] for step in loss_pipeline(validation, training)]
        ['LoadImageFromFile', 'LoadAnnotations', 'Resize']
    """
    loaders = [step for step in training if _loads_annotations(step)]
    loaders = loaders or [step for step in validation if _loads_annotations(step)]
    kept = [step for step in validation if not _loads_annotations(step)]
    at = next((place + 1 for place, step in enumerate(kept) if _name(step).startswith('Load')), 0)
    return copy.deepcopy([*kept[:at], *loaders, *kept[at:]])


def _name(step: dict) -> str:
    kind = step.get('type')
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')


def _loads_annotations(step: dict) -> bool:
    return bool(_ANNOTATIONS.fullmatch(_name(step)))


def _datasets(node: Any) -> Iterator[dict]:
    """Yield the settings of data sets and of what is wrapped around them that have a pipeline, the innermost last."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _datasets(item)
    elif isinstance(node, dict):
        if node.get('pipeline') is not None:
            yield node
        for key in ('dataset', 'datasets'):
            yield from _datasets(node.get(key))


@HOOKS.register_module()
class ValLossHook(Hook):
    """Compute the loss on the validation set at each validation, log it, and stop the training once it no longer falls.

    For MMSegmentation, MMDetection and MMPreTrain. The mean over the pictures joins the metrics as ``val_loss``, and
    each loss of the model as ``val_<its name>``; so they are logged, and ``CheckpointHook(save_best='val_loss',
    rule='less')`` and MMEngine's ``EarlyStoppingHook(monitor='val_loss', rule='less')`` can watch them. The model is in
    eval mode, and its weights are those that the metrics are of (an EMA's too). Losses that draw random samples draw
    the same ones each time, and what training draws stays the same. It takes a second pass over the validation set.

    The annotations are loaded as in training, at the picture's size, see :func:`loss_pipeline`; no random transform of
    training is used. Where processes share the work, pictures that fill the last batch up count twice.

    Args:
        patience: Validations in a row without a lower loss after which training stops. Kept in checkpoints, and taken
            up by a resumed run. Defaults to None, it goes on.
        min_delta: By how much the loss must fall to count as lower. Defaults to 0.
        dataloader: A data loader for the loss, as a config has it. Defaults to None, one like ``val_dataloader``.
        seed: Of the random samples that losses draw. Defaults to 0.

    Raises:
        ValueError: If ``patience`` is less than 1 or ``min_delta`` negative.

    Examples:
        >>> from mmvim.registry import HOOKS
        >>> hook = HOOKS.build(dict(type='ValLossHook', patience=5))  # an item of custom_hooks in a config
        >>> hook.patience
        5
    """

    priority = 'HIGHEST'  # before RuntimeInfoHook, which hands the metrics to the log

    def __init__(
        self, patience: int | None = None, min_delta: float = 0.0, dataloader: dict | None = None, seed: int = 0
    ) -> None:
        if patience is not None and (type(patience) is not int or patience < 1):
            raise ValueError(f'patience must be a whole number of validations from 1, or None, got {patience!r}')
        if not min_delta >= 0:
            raise ValueError(f'min_delta must be 0 or greater, got {min_delta!r}')
        self.patience, self.min_delta, self.seed = patience, min_delta, seed
        self.best, self.waited = math.inf, 0
        self._settings, self._loader = dataloader, None

    def before_run(self, runner: Runner) -> None:
        """Have the log show these losses as they are, where it shows the mean of the last ten of every other loss."""
        pattern = re.compile(runner.log_processor.mean_pattern).pattern
        if not pattern.startswith(_AS_THEY_ARE):
            runner.log_processor.mean_pattern = re.compile(f'{_AS_THEY_ARE}.*(?:{pattern})')

    def before_train(self, runner: Runner) -> None:
        """Check that there is a validation.

        Raises:
            ValueError: If the run has none.
        """
        if runner.val_loop is None:
            raise ValueError('ValLossHook needs a validation: set val_dataloader, val_cfg and val_evaluator')

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Compute the loss, put it into the metrics, and stop the training if it has not fallen for long enough."""
        if self._loader is None:
            self._loader = self._build(runner)
        losses = self._losses(runner, self._loader)
        if metrics is not None:
            metrics.update(losses)
        if self.patience is not None and getattr(runner, '_train_loop', None) is not None:
            self._judge(runner, losses[_KEY])

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the best loss and for how long it has stood."""
        checkpoint[_KEY] = {'best': self.best, 'waited': self.waited}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take up both where a training is resumed."""
        if runner._resume and _KEY in checkpoint:
            self.best, self.waited = checkpoint[_KEY]['best'], checkpoint[_KEY]['waited']

    def _build(self, runner: Runner) -> DataLoader:
        settings = self._settings
        if settings is None:
            settings = copy.deepcopy(runner.cfg.get('val_dataloader'))
            if not isinstance(settings, dict):
                raise ValueError('ValLossHook finds no val_dataloader in the config; give dataloader=dict(...)')
            trained = _datasets((runner.cfg.get('train_dataloader') or {}).get('dataset'))
            training = next((p for p in trained if any(map(_loads_annotations, p['pipeline']))), {'pipeline': []})
            for node in _datasets(settings['dataset']):
                if any(_name(step).startswith('Load') for step in node['pipeline']):
                    node['pipeline'] = loss_pipeline(node['pipeline'], training['pipeline'])
            settings['persistent_workers'] = False  # a second set of workers would stay for all of the training
        return Runner.build_dataloader(copy.deepcopy(settings), seed=runner.seed)

    def _losses(self, runner: Runner, loader: DataLoader) -> dict[str, float]:
        """Return the mean of each loss over the pictures, by the name under which it is logged."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        state, training = capture_random_state(), model.training
        random.seed(self.seed)
        np.random.seed(self.seed)
        torch.manual_seed(self.seed)
        model.eval()
        sums: dict[str, float] = {}
        pictures = 0
        try:
            with torch.no_grad():
                for batch in loader:
                    found, count = _batch_losses(model, batch)
                    pictures += count
                    for name, value in found.items():
                        sums[name] = sums.get(name, 0.0) + value * count
        finally:
            model.train(training)
            restore_random_state(state)
        names = sorted(sums)
        device = next(model.parameters()).device
        totals = torch.tensor([*(sums[name] for name in names), pictures], dtype=torch.float32, device=device)
        all_reduce(totals)
        means = (totals[:-1] / totals[-1]).tolist()
        found = dict(zip(names, means, strict=True))
        return {_KEY: found.pop('loss'), **{f'val_{name}': value for name, value in found.items()}}

    def _judge(self, runner: Runner, loss: float) -> None:
        assert self.patience is not None
        if loss < self.best - self.min_delta:  # never true of a loss that is no number
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            runner.train_loop.stop_training = True
            runner.logger.info(
                f'the loss on the validation set is {loss:.4g}, and has not fallen below {self.best:.4g} for '
                f'{self.waited} validations: training stops'
            )


def _batch_losses(model: nn.Module, batch: dict) -> tuple[dict[str, float], int]:
    """Return the losses of a batch, their sum as 'loss', and how many pictures it has."""
    preprocessor = model.data_preprocessor
    data = preprocessor(batch, False)
    samples = data.get('data_samples') or []
    # As in training, but for what augments a batch.
    if getattr(preprocessor, 'pad_mask', False):
        preprocessor.pad_gt_masks(samples)
    if getattr(preprocessor, 'pad_seg', False):
        preprocessor.pad_gt_sem_seg(samples)
    losses = model(data['inputs'], data.get('data_samples'), mode='loss')
    total, parts = model.parse_losses(losses)
    found = {name: float(value) for name, value in parts.items() if 'loss' in name and name != 'loss'}
    return {**found, 'loss': float(total)}, len(data['inputs'])
