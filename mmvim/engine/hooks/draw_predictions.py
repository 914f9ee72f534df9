"""Predictions on a few validation pictures, drawn again and again while a model trains."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmvim.analysis.contact_sheet import SheetRow, draw_contact_sheet
from mmvim.analysis.instances import draw_instances, draw_table
from mmvim.analysis.palette import complete_palette, number_of_classes
from mmvim.datasets.bands import as_rgb, check_bands
from mmvim.datasets.load_bands import bands_loader
from mmvim.engine.hooks.draw_bands import BandsVisualizationHook
from mmvim.engine.hooks.random_state import capture_random_state, restore_random_state
from mmvim.registry import HOOKS


@HOOKS.register_module()
class DrawPredictionsHook(Hook):
    """Draw what the model sees on the same few pictures every so many iterations, beside the truth.

    For MMSegmentation and MMDetection, panoptic models as well: their segments have the colour of their class, with a
    dark line between two segments of one class. Where the validation pipeline loads no annotations, the picture alone,
    or for classes of pixels plain grey, stands in the truth's place. The sheet goes to all backends of the config's
    visualizer under the name ``predictions``: with MMEngine's ``LocalVisBackend`` to
    ``<run>/vis_data/vis_image/predictions_<iteration>.png``, and to TensorBoard or :class:`mmvim.TrackioVisBackend` if
    the config has them. What training draws at random stays the same.

    Args:
        interval: Iterations from one sheet to the next.
        pictures: How many pictures, taken at equal distances from the validation set. Defaults to 4.
        score_thr: Least score of an instance that is drawn. Defaults to 0.3.
        width: Of one picture on the sheet, in pixels. Defaults to 320.
        bands: Of pictures that ``mmvim.LoadImageBands`` loads, the numbers of the three that are shown as red, green
            and blue. Defaults to None: those of the run's ``mmvim.BandsVisualizationHook``, or the first three.

    Raises:
        ValueError: If a number is less than 1, ``score_thr`` is not from 0 to 1, or ``bands`` are not three numbers.

    Examples:
        >>> from mmvim.registry import HOOKS
        >>> hook = HOOKS.build(dict(type='DrawPredictionsHook', interval=500))  # an item of custom_hooks in a config
        >>> hook.pictures
        4
    """

    priority = 'LOW'

    def __init__(
        self,
        interval: int,
        pictures: int = 4,
        score_thr: float = 0.3,
        width: int = 320,
        bands: Sequence[int] | None = None,
    ) -> None:
        for name, value in (('interval', interval), ('pictures', pictures), ('width', width)):
            if value < 1:
                raise ValueError(f'{name} must be 1 or more, got {value}')
        if not 0 <= score_thr <= 1:
            raise ValueError(f'score_thr must be from 0 to 1, got {score_thr}')
        self.interval, self.pictures, self.score_thr, self.width = interval, pictures, score_thr, width
        self.bands, self.percent = check_bands(bands), (2.0, 98.0)
        if self.bands is not None and len(self.bands) != 3:
            raise ValueError(f'bands={self.bands} are {len(self.bands)}, and a picture is shown in three')

    def before_train(self, runner: Runner) -> None:
        """Check that there are pictures to draw on.

        Raises:
            ValueError: If the run has no validation set.
        """
        if runner.val_loop is None:
            raise ValueError('DrawPredictionsHook draws on validation pictures: set val_dataloader and val_cfg')
        shown = next((hook for hook in runner.hooks if isinstance(hook, BandsVisualizationHook)), None)
        if shown is not None:
            self.percent = shown.percent
            self.bands = shown.bands if self.bands is None else self.bands

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Draw, if it is time."""
        if self.every_n_train_iters(runner, self.interval):
            self._draw(runner)

    def _draw(self, runner: Runner) -> None:
        dataset = runner.val_loop.dataloader.dataset
        model = runner.model
        state, training = capture_random_state(), model.training
        model.eval()
        pairs = []
        try:
            with torch.no_grad():  # by every process, as a sharded model needs all of them
                for index in np.linspace(0, len(dataset) - 1, min(self.pictures, len(dataset))).round().astype(int):
                    item = dataset[int(index)]
                    truth = item['data_samples'].clone()
                    (result,) = model.test_step({key: [value] for key, value in item.items()})
                    pairs.append((item['inputs'], truth, result.cpu()))
        finally:
            model.train(training)
            restore_random_state(state)
        if is_main_process():
            maps = any(name in pairs[0][2] for name in ('pred_sem_seg', 'pred_panoptic_seg'))
            draw = self._segmentation if maps else self._instances
            inner = model.module if is_model_wrapper(model) else model
            sheet = draw(pairs, dataset, number_of_classes(inner))
            runner.visualizer.add_image('predictions', sheet, runner.iter + 1)

    def _segmentation(self, pairs: list, dataset: Any, number: int | None) -> np.ndarray:
        classes = _names(dataset.metainfo, number)
        rows = []
        for inputs, truth, result in pairs:
            prediction, labels = _predicted(result), _annotated(truth)
            size = prediction.shape[::-1]
            if labels is None:
                labels = np.full(prediction.shape, -1)
            if labels.shape != prediction.shape:
                labels = cv2.resize(labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
            image = cv2.resize(self._colours(inputs, dataset), size, interpolation=cv2.INTER_AREA)
            rows.append(SheetRow(image, labels, prediction))
        palette = complete_palette(dataset.metainfo.get('palette'), len(classes))
        return np.array(draw_contact_sheet(rows, classes, palette, cell_width=self.width))

    def _instances(self, pairs: list, dataset: Any, number: int | None) -> np.ndarray:
        classes = _names(dataset.metainfo, number)
        resized = _annotations_are_resized(dataset)
        rows = []
        for inputs, truth, result in pairs:
            image = self._colours(inputs, dataset)
            found = result.pred_instances
            found = found[found.scores >= self.score_thr]
            scale = result.get('scale_factor', (1.0, 1.0))
            shown = [
                self._one(image, truth.get('gt_instances'), classes, (1.0, 1.0) if resized else scale),
                self._one(image, found, classes, scale),
            ]
            height = round(self.width * shown[0].shape[0] / shown[0].shape[1]) if not rows else rows[0][0].shape[0]
            rows.append([cv2.resize(one, (self.width, height), interpolation=cv2.INTER_AREA) for one in shown])
        known = any(len(truth.get('gt_instances', ())) for _, truth, _ in pairs)  # if the pipeline loads annotations
        return draw_table(rows, ('truth' if known else 'image', 'prediction'))

    def _one(self, image: np.ndarray, objects: Any, classes: list[str], scale: tuple[float, float]) -> np.ndarray:
        """Draw objects on a picture of the network's size; ``scale`` leads from their pixels to its."""
        height, width = image.shape[:2]
        zoom = max(1, round(self.width / width))
        if objects is None or not len(objects):
            return cv2.resize(image, (width * zoom, height * zoom), interpolation=cv2.INTER_CUBIC)
        boxes = getattr(objects.bboxes, 'tensor', objects.bboxes).cpu().numpy() * np.array([*scale, *scale])
        masks = np.zeros((len(boxes), height, width), bool)
        if 'masks' in objects:
            found = getattr(objects.masks, 'masks', objects.masks)
            found = found.numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
            resized = [
                cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) for mask in found
            ]
            masks = np.stack(resized) > 0
        return draw_instances(image, boxes, masks, objects.labels.tolist(), classes, zoom=zoom)

    def _colours(self, inputs: torch.Tensor, dataset: Any) -> np.ndarray:
        """Return a picture as a data set yields it, (C, H, W), as (H, W, 3) uint8, RGB."""
        picture = inputs.permute(1, 2, 0).cpu().numpy()
        if bands_loader(dataset) is None and picture.shape[2] == 3:
            return np.ascontiguousarray(picture[..., ::-1])  # the libraries' loaders have blue first
        return as_rgb(picture, self.bands, self.percent)


def _predicted(sample: Any) -> np.ndarray:
    """Return the class of each pixel as a segmentor or a panoptic model sees it, (H, W)."""
    if 'pred_panoptic_seg' not in sample:
        return sample.pred_sem_seg.data[0].numpy()
    from mmdet.evaluation import INSTANCE_OFFSET

    segments = sample.pred_panoptic_seg.sem_seg[0].numpy()
    return _parted(segments % INSTANCE_OFFSET, segments)


def _annotated(sample: Any) -> np.ndarray | None:
    """Return the class of each pixel as it is annotated, (H, W), None if the pipeline loads no such map."""
    if 'gt_sem_seg' not in sample:
        return None
    pixels = sample.gt_sem_seg
    if 'sem_seg' not in pixels:  # MMSegmentation's name is data
        return pixels.data[0].numpy()
    labels = pixels.sem_seg[0].numpy()
    segments = np.zeros(labels.shape, np.int64)
    masks = sample.get('gt_instances', {}).get('masks', ())
    for number, mask in enumerate(masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks, 1):
        segments[np.asarray(mask) > 0] = number
    return _parted(labels, segments)


def _parted(labels: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Return a map of classes with -1, no class, along the line between two segments of the same class."""
    parted = labels.astype(np.int32)
    for one, other in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        line = (labels[one] == labels[other]) & (segments[one] != segments[other])
        parted[one][line] = parted[other][line] = -1
    return parted


def _names(meta: dict, number: int | None) -> list[str]:
    classes = [str(name) for name in meta.get('classes') or ()]
    return classes or [f'class {index}' for index in range(number or 1000)]


def _annotations_are_resized(dataset: Any) -> bool:
    """Return whether a pipeline loads annotations before it resizes them with the picture; mmdet's own do so after."""
    while getattr(dataset, 'pipeline', None) is None:
        dataset = dataset.dataset
    names = [type(step).__name__ for step in dataset.pipeline.transforms]
    loaded = next((place for place, name in enumerate(names) if name.endswith('Annotations')), len(names))
    return any('Resize' in name for name in names[loaded:])
