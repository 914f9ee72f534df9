"""Predictions of a trained model on any picture, drawn over it, with a legend: what ``mmvim demo`` and its page show.

The libraries' inferencers predict and their visualizers draw. Here stand what they need beforehand (a pipeline without
annotations, names and colours of all classes, pictures of sizes that they can take) and the legend.
"""

import copy
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.config import Config, ConfigDict

from mmvim.analysis.legend import Entry, add_legend
from mmvim.analysis.palette import classes_and_palette, number_of_classes
from mmvim.datasets.bands import as_rgb, check_bands
from mmvim.datasets.load_bands import LoadImageBands
from mmvim.engine.hooks.draw_bands import BandsVisualizationHook
from mmvim.registry import HOOKS, TRANSFORMS

LEAST, LONGEST = 16, 16  # pixels of the shorter side, and longer over shorter side, of what a model is given
SHOWN = 320  # pixels of the longer side, to which smaller pictures are enlarged before something is drawn on them
_LOADERS = ('LoadImageFromFile', 'LoadImageBands')
_TASKS = {'mmseg': 'segmentation', 'mmdet': 'instances'}


class Found(NamedTuple):
    """A class that a model has found in a picture.

    Args:
        name: Of the class.
        colour: RGB, 0 to 255.
        share: Of the picture's pixels, 0 to 1; None for instances.
        count: Number of instances; None for a semantic segmentation and for what has no instances.
        score: That of the best instance, 0 to 1; None without instances.

    Examples:
        >>> from mmvim.analysis.overlay import Found
        >>> Found('sky', (120, 180, 250), share=0.25).text
        'sky 25.0 %'
    """

    name: str
    colour: tuple[int, int, int]
    share: float | None = None
    count: int | None = None
    score: float | None = None

    @property
    def text(self) -> str:
        """What a legend says of it."""
        share = '' if self.share is None else f' {100 * self.share:.1f} %'
        count = '' if self.count is None else f' x {self.count}'
        return f'{self.name}{count}{share}'


class Drawn(NamedTuple):
    """A prediction.

    Args:
        overlay: (H, W, 3) uint8, RGB: the picture with the prediction over it, without a legend.
        found: The classes that occur, the largest or most frequent first.
        seconds: What preparing, predicting and scaling back took, without reading and drawing.
        labels: (h, w) int64, the class of each pixel at the size that was predicted; None for instances.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.overlay import Drawn
        >>> Drawn(np.zeros((32, 32, 3), np.uint8), [], seconds=0.1).with_legend().shape
        (60, 160, 3)
    """

    overlay: np.ndarray
    found: list[Found]
    seconds: float
    labels: np.ndarray | None = None

    def with_legend(self, lines: int | None = None) -> np.ndarray:
        """Return the overlay with a legend of the classes below it, and the time.

        Args:
            lines: See :func:`mmvim.analysis.legend.add_legend`. Defaults to None.
        """
        entries = [Entry(one.text, one.colour) for one in self.found]
        note = f'{self.seconds:.2f} s' if entries else f'{self.seconds:.2f} s, nothing found'
        return add_legend(self.overlay, entries, note, lines)


class OverlayPainter:
    """A trained model that draws what it sees on pictures of any size.

    Segmentors of MMSegmentation, and detectors, instance and panoptic segmentors of MMDetection. Pictures longer than
    ``max_side`` are shrunk to it, pictures that are narrower than :data:`LEAST` pixels or longer than :data:`LONGEST`
    times their width are continued at the right and below by their last pixels for the prediction, and small ones are
    enlarged for drawing only.

    Args:
        cfg: The model's config, with ``default_scope`` 'mmseg' or 'mmdet' and ``test_dataloader``.
        weights: Checkpoint file, as MMEngine reads it.
        device: Defaults to None, a GPU if there is one, else the CPU.
        score_thr: Least score of an instance that is drawn. Defaults to 0.3.
        opacity: Of the prediction over the picture, 0 to 1. Defaults to 0.6.
        max_side: Longest side in pixels of what is predicted and drawn. Defaults to 2048.
        full_size: Predict at the picture's own size and shrink only for drawing, for models that work by tiles.
            Defaults to False.
        bands: Of a model whose test pipeline has ``mmvim.LoadImageBands``, the numbers of the three bands that are
            drawn on, as red, green and blue. Defaults to None: those of the config's ``mmvim.BandsVisualizationHook``,
            or the first three.

    Attributes:
        loader: The ``LoadImageBands`` that reads pictures for the model; None for pictures of three colours.

    Raises:
        ValueError: If ``default_scope`` is another one, the test pipeline does not load pictures, or a number is out of
            range.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.analysis.overlay import OverlayPainter
        >>> try:
        ...     OverlayPainter(Config(dict(default_scope='mmpretrain')), 'vim.pth')
        ... except ValueError as error:
        ...     print(error)
        default_scope is 'mmpretrain'; predictions are drawn for mmseg and mmdet
    """

    def __init__(
        self,
        cfg: Config,
        weights: str,
        device: str | None = None,
        score_thr: float = 0.3,
        opacity: float = 0.6,
        max_side: int = 2048,
        full_size: bool = False,
        bands: Sequence[int] | None = None,
    ) -> None:
        self.library = cfg.get('default_scope')
        if self.library not in _TASKS:
            raise ValueError(f'default_scope is {self.library!r}; predictions are drawn for mmseg and mmdet')
        for name, value in (('score_thr', score_thr), ('opacity', opacity)):
            if not 0 <= value <= 1:
                raise ValueError(f'{name} must be from 0 to 1, got {value}')
        if max_side < LEAST:
            raise ValueError(f'max_side must be {LEAST} pixels or more, got {max_side}')
        self.score_thr, self.max_side, self.full_size = score_thr, max_side, full_size
        self.loader, shown = _bands_of(cfg)
        if bands is not None and self.loader is None:
            raise ValueError(f'bands={tuple(bands)} are chosen, and the model takes pictures of three colours')
        self.bands, self.percent = check_bands(bands) or shown.bands, shown.percent
        if self.bands is not None and len(self.bands) != 3:
            raise ValueError(f'bands={self.bands} are {len(self.bands)}, and a picture is shown in three')
        cfg = _ready(cfg)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of classes and palettes that the checkpoint lacks, found below
            self.inferencer = self._build(cfg, weights, device)
        self.inferencer.show_progress = False
        self.model = self.inferencer.model
        number = number_of_classes(self.model)
        meta = getattr(self.model, 'dataset_meta', None)
        self.classes, self.palette = classes_and_palette(cfg, meta, number)
        self.inferencer.visualizer.dataset_meta = {'classes': self.classes, 'palette': self.palette}
        self.inferencer.visualizer.alpha = float(opacity)

    @property
    def task(self) -> str:
        """'segmentation', 'instances' or 'panoptic'."""
        return 'panoptic' if hasattr(self.model, 'panoptic_fusion_head') else _TASKS[self.library]

    @property
    def channels(self) -> int | None:
        """How many bands a picture must have; None if the model's preprocessor has no mean for each."""
        inner = getattr(self.model, 'module', self.model)  # of a model that works by tiles
        mean = getattr(getattr(inner, 'data_preprocessor', None), 'mean', None)
        return None if self.loader is None or mean is None or len(mean) == 1 else len(mean)

    def _build(self, cfg: Config, weights: str, device: str | None) -> Any:
        if self.library == 'mmseg':
            from mmseg.apis import MMSegInferencer

            return MMSegInferencer(cfg, weights, device=device)
        from mmdet.apis import DetInferencer

        # a palette of its own keeps the inferencer from building the data set
        return DetInferencer(cfg, weights, device=device, palette='random')

    def __call__(self, picture: np.ndarray) -> Drawn:
        """Predict and draw.

        Args:
            picture: (H, W, 3) uint8, RGB; for a model of bands, (H, W, C) as ``loader`` reads it.

        Raises:
            ValueError: If it has another shape or dtype.
        """
        if self.loader is not None:
            if picture.ndim != 3 or not picture.size or self.channels not in (None, picture.shape[2]):
                raise ValueError(f'a picture must be (H, W, {self.channels or "C"}), got {picture.shape}')
        elif picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
            raise ValueError(f'a picture must be (H, W, 3) uint8, got {picture.shape} {picture.dtype}')
        shown = _at_most(picture, self.max_side)
        given = picture if self.full_size else shown
        padded = _padded(given)
        begin = time.perf_counter()
        # the libraries' pipelines take blue first
        given_to = np.ascontiguousarray(padded[..., ::-1] if self.loader is None else padded)
        result = self.inferencer([given_to], return_datasamples=True, batch_size=1)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        result = result['predictions'] if isinstance(result, dict) else result
        sample = (result[0] if isinstance(result, list) else result).cpu()
        height, width = shown.shape[:2]
        if self.loader is not None:
            shown = as_rgb(shown, self.bands, self.percent)
        zoom = max(1, -(-SHOWN // max(height, width)))
        size = (height * zoom, width * zoom)
        canvas = cv2.resize(shown, size[::-1], interpolation=cv2.INTER_NEAREST) if zoom > 1 else shown
        return self._draw(canvas, sample, given.shape[:2], seconds)

    def _draw(self, canvas: np.ndarray, sample: Any, given: tuple[int, int], seconds: float) -> Drawn:
        """Draw a prediction, whose padding goes, on a canvas of another size."""
        visualizer, size = self.inferencer.visualizer, canvas.shape[:2]
        options: dict[str, Any] = {'draw_gt': False}
        labels = None
        if 'pred_sem_seg' in sample and self.library == 'mmseg':
            labels = sample.pred_sem_seg.data[0].numpy()[: given[0], : given[1]]
            drawn = type(sample)(pred_sem_seg=_pixels(_nearest(labels, size)))
            found = self._shares(labels)
            options['with_labels'] = False  # the legend has them
        elif 'pred_panoptic_seg' in sample:
            segments = sample.pred_panoptic_seg.sem_seg[0].numpy()[: given[0], : given[1]]
            drawn = type(sample)(pred_panoptic_seg=_pixels(_nearest(segments, size), 'sem_seg'))
            labels, found = self._segments(segments)
        else:
            drawn, found = self._instances(sample, given, size)
            options['pred_score_thr'] = -1.0  # what is left is to be drawn
        if found:
            visualizer.add_datasample('', canvas, drawn, **options)
            canvas = visualizer.get_image()
        return Drawn(canvas, found, seconds, labels)

    def _shares(self, labels: np.ndarray) -> list[Found]:
        counts = np.bincount(labels[labels < len(self.classes)].ravel(), minlength=len(self.classes))
        order = [int(index) for index in counts.argsort(kind='stable')[::-1] if counts[index]]
        return [Found(self.classes[i], self.palette[i], share=counts[i] / labels.size) for i in order]

    def _segments(self, segments: np.ndarray) -> tuple[np.ndarray, list[Found]]:
        """Return the class of each pixel of a panoptic map, and the classes with their instances."""
        from mmdet.evaluation import INSTANCE_OFFSET

        labels = segments % INSTANCE_OFFSET
        things = getattr(self.model.panoptic_fusion_head, 'num_things_classes', 0)
        ids = np.unique(segments)
        found = []
        for one in self._shares(labels):
            index = self.classes.index(one.name)
            number = int((ids % INSTANCE_OFFSET == index).sum())
            found.append(one._replace(count=number) if index < things else one)
        return labels, found

    def _instances(self, sample: Any, given: tuple[int, int], size: tuple[int, int]) -> tuple[Any, list[Found]]:
        """Return the instances of a sample without what lies in the padding, and their classes."""
        kept = sample.pred_instances[sample.pred_instances.scores >= self.score_thr]
        boxes = kept.bboxes.clone().float()
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, given[1])
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, given[0])
        inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        if 'masks' in kept:  # models without boxes have zeros in their place
            inside |= kept.masks[:, : given[0], : given[1]].flatten(1).any(1)
        kept, boxes = kept[inside], boxes[inside]
        kept.bboxes = boxes * boxes.new_tensor([size[1] / given[1], size[0] / given[0]] * 2)
        if 'masks' in kept:
            masks = [_nearest(mask[: given[0], : given[1]].numpy().astype(np.uint8), size) for mask in kept.masks]
            kept.masks = torch.from_numpy(np.stack(masks) > 0) if masks else torch.zeros((0, *size), dtype=torch.bool)
        drawn = type(sample)(pred_instances=kept)
        numbers = kept.labels.bincount(minlength=len(self.classes)) if len(kept) else torch.zeros(len(self.classes))
        order = [int(index) for index in numbers.argsort(descending=True, stable=True) if numbers[index]]
        best = {index: float(kept.scores[kept.labels == index].max()) for index in order}
        return drawn, [
            Found(self.classes[i], self.palette[i], count=int(numbers[i]), score=round(best[i], 4)) for i in order
        ]


def _ready(cfg: Config) -> Config:
    """Return a copy of a config whose test pipeline takes a picture alone, and whose visualizer keeps nothing."""
    cfg = copy.deepcopy(cfg)
    if cfg.get('data_preprocessor') is not None:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    steps = [step for step in dataset.get('pipeline') or () if not _kind(step).endswith('Annotations')]
    if not any(_kind(step) in _LOADERS for step in steps):
        loaders = ', '.join(_kind(step) for step in steps if _kind(step).startswith('Load')) or 'no loader'
        raise ValueError(f'the test pipeline has {loaders}; pictures need {" or ".join(_LOADERS)}')
    for place, step in enumerate(steps):
        if _kind(step) == 'LoadImageFromFile':
            step['type'] = 'LoadImageFromFile'  # which mmseg's inferencer looks for by this very name
        elif _kind(step) == 'LoadImageBands':
            steps[place] = ConfigDict(type='LoadImageFromFile')  # in whose place arrays of any bands are taken
    dataset['pipeline'] = steps
    cfg.test_dataloader.dataset = dataset
    cfg.visualizer = {
        'type': 'SegLocalVisualizer' if cfg.default_scope == 'mmseg' else 'DetLocalVisualizer',
        'name': f'overlay {time.monotonic_ns()}',  # MMEngine keeps visualizers by name
    }
    return cfg


def _bands_of(cfg: Config) -> tuple[LoadImageBands | None, BandsVisualizationHook]:
    """Return what loads the bands of a config's test pictures, or None, and what says which of them are drawn."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    step = next((step for step in dataset.get('pipeline') or () if _kind(step) == 'LoadImageBands'), None)
    hook = (cfg.get('default_hooks') or {}).get('visualization') or {}
    shown = HOOKS.build(hook) if _kind(hook) == 'BandsVisualizationHook' else BandsVisualizationHook()
    return None if step is None else TRANSFORMS.build(step), shown


def _kind(step: Any) -> str:
    kind = step.get('type')
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')


def _at_most(picture: np.ndarray, side: int) -> np.ndarray:
    """Shrink a picture to a longest side; one that is shorter stays."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _padded(picture: np.ndarray) -> np.ndarray:
    """Continue a picture that is too narrow by its last pixels, at the right and below."""
    height, width = picture.shape[:2]
    least = max(LEAST, -(-max(height, width) // LONGEST))
    below, right = max(least - height, 0), max(least - width, 0)
    if not below and not right:
        return picture
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE)


def _nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a map of numbers, (H, W), to another size."""
    if labels.shape == tuple(size):
        return labels
    rows, columns = (np.arange(n) * have // n for n, have in zip(size, labels.shape, strict=True))
    return labels[rows[:, None], columns]


def _pixels(labels: np.ndarray, name: str = 'data') -> Any:
    from mmengine.structures import PixelData

    return PixelData(**{name: torch.from_numpy(np.ascontiguousarray(labels))[None]})
