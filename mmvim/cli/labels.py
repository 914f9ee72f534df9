"""A look at a few samples before a run: whether they can be read, and whether their bands and labels suit the model."""

import copy
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import nn

from mmvim.cli.bands import PictureBands
from mmvim.cli.data import LARGEST, find_datasets, is_remote_file
from mmvim.cli.errors import ENVIRONMENT, UserError, describe, warn
from mmvim.cli.first_step import picture_size
from mmvim.cli.noise import quiet
from mmvim.datasets.readable import UnreadableFileError, first_problem, local_pictures, looks_whole

_COUNT = 10  # samples of a data set


def check_samples(
    cfg: Config, model: nn.Module, stages: tuple[str, ...], thorough: bool = False, unreadable: str = 'stop'
) -> list[str]:
    """Read a few samples of every data set that a run will read, and compare them with the model.

    That is their labels with its classes, and their bands with its means and channels. Boxes without an area or outside
    of their picture are told in a warning.

    Args:
        cfg: The config, whose files :func:`mmvim.cli.check_data` has found.
        model: The model, as :func:`mmvim.cli.build_model` returns it.
        stages: Any of 'train', 'val' and 'test'.
        thorough: Read annotation files of more than 50 MB too, and run whole pipelines, not only what loads. Defaults
            to False.
        unreadable: 'skip' passes over pictures of the training that cannot be read. Defaults to 'stop'.

    Returns:
        What there is, a line for each data set.

    Raises:
        UserError: If a sample cannot be read, a picture has another number of bands than the model takes or (if
            ``thorough``) than the first picture, a mask has another size than its picture, a label is beyond the
            model's classes, everything is ignored, or a detector has another number of classes than the data.

    Examples:
        >>> from mmengine.config import Config
        >>> from torch import nn
        >>> from mmvim.cli.labels import check_samples
        >>> dataset = dict(type='BaseDataset', ann_file='s3://labels.json')  # not on this machine: nothing is read
        >>> cfg = Config(dict(default_scope='mmengine', test_dataloader=dict(dataset=dataset)))
        >>> check_samples(cfg, nn.Identity(), ('test',))
        []
    """
    found = []
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        for stage in stages:
            loader = f'{stage}_dataloader'
            for node, path in find_datasets(cfg[loader].get('dataset'), (loader, 'dataset')):
                if _is_elsewhere(node) or (not thorough and _is_large(node)):
                    continue
                name = '.'.join(path)
                try:
                    with quiet():
                        dataset = registry.build(copy.deepcopy(node))
                except Exception as error:  # whatever the data set raises, the runner would after making directories
                    raise UserError(
                        f'{name} cannot be built: {describe(error)}', 'correct it or its files', ENVIRONMENT
                    ) from error
                skips = unreadable == 'skip' and stage == 'train'
                found.append(_Look(name, dataset, model, picture_size(cfg), thorough, skips).result())
    return found


def _is_elsewhere(node: dict) -> bool:
    prefixes = node.get('data_prefix') or {}
    paths = [node.get('data_root'), node.get('ann_file'), *(prefixes.values() if isinstance(prefixes, dict) else ())]
    return any(is_remote_file(path, node.get('backend_args')) for path in paths if isinstance(path, str))


def _is_large(node: dict) -> bool:
    file = os.path.join(node.get('data_root') or '', node.get('ann_file') or '')
    return os.path.isfile(file) and os.path.getsize(file) > LARGEST


def heads_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the heads that tell classes, with their names: a segmentor's, or those of a detector's boxes.

    A detector that is told its classes in words (GLIP, Grounding DINO) has none: its ``num_classes`` bounds nothing.

    Args:
        model: The model.

    Examples:
        >>> from torch import nn
        >>> from mmvim.cli.labels import heads_of
        >>> class Head(nn.Module):
        ...     num_classes = 7
        >>> [(name, head.num_classes) for name, head in heads_of(nn.ModuleDict({'decode_head': Head()}))]
        [('decode_head', 7)]
    """
    names = () if hasattr(model, 'language_model') else ('decode_head', 'bbox_head', 'roi_head.bbox_head')
    for name in names:
        try:
            found = model.get_submodule(name)
        except AttributeError:
            continue
        for number, head in enumerate(found) if isinstance(found, nn.ModuleList) else ((None, found),):
            if isinstance(getattr(head, 'num_classes', None), int):
                yield (name if number is None else f'{name}.{number}'), head


class _Look:
    """The first samples of a data set, evenly spread."""

    def __init__(
        self, name: str, dataset: Any, model: nn.Module, size: tuple[int, int], thorough: bool, skips: bool
    ) -> None:
        self.name, self.dataset, self.thorough, self.skips = name, dataset, thorough, skips
        self.heads = list(heads_of(model))
        self.on_masks = bool(self.heads) and self.heads[0][0].startswith('decode_head')
        metainfo = getattr(dataset, 'metainfo', None) or {}
        # Of a panoptic data set, the boxes are of the things alone.
        things = None if self.on_masks else metainfo.get('thing_classes')
        self.classes = len(things or metainfo.get('classes') or ())
        self.bands = PictureBands(dataset, model, size)
        self.labels: set[int] = set()
        self.kind = ''
        self.boxes, self.strange = 0, list[str]()

    def result(self) -> str:
        total = len(self.dataset)
        if total == 0:
            raise UserError(f'{self.name} holds nothing to read', 'check its files and filter_cfg', ENVIRONMENT)
        looked = sorted({round(i * (total - 1) / max(1, min(_COUNT, total) - 1)) for i in range(min(_COUNT, total))})
        for index in looked:
            self.look_at(index)
        self.compare()
        line = f'{self.name}: {len(looked)} of {total} samples looked at'
        return f'{line}, {self.kind} {_listed(self.labels)}' if self.labels else line

    def look_at(self, index: int) -> None:
        pipeline = getattr(getattr(self.dataset, 'pipeline', None), 'transforms', [])
        files: list[str] = []
        bad: tuple[str, str] | None = None
        try:
            with quiet():
                sample = self.dataset.get_data_info(index)
                files = local_pictures(sample, pipeline) if isinstance(sample, dict) else []
                if not all(map(looks_whole, files)):
                    bad = first_problem(files)
                    if bad is not None:
                        raise UnreadableFileError(' '.join(bad))
                for transform in pipeline:  # a mask may be loaded after its picture was resized
                    if type(transform).__name__.startswith('Load'):
                        sample = transform(sample)
                packed = self.dataset[index] if self.thorough else None
        except Exception as error:  # of files, of transforms: the run would end in it
            bad = bad or first_problem(files)
            if bad is not None and self.skips:
                warn(f'{" ".join(bad)}: it will be left out')
                return
            remedy = 'mend or remove it' + (
                ', or pass --unreadable skip to leave such out' if bad and self.name.startswith('train') else ''
            )
            text = ' '.join(bad) if bad else describe(error)
            raise UserError(f'sample {index} of {self.name} cannot be read: {text}', remedy, ENVIRONMENT) from error
        if not isinstance(sample, dict):
            return
        self.bands.look_at(index, sample.get('img_path') or f'sample {index} of {self.name}', sample, packed)
        where = sample.get('seg_map_path') or sample.get('img_path') or f'sample {index}'
        if self.on_masks and isinstance(sample.get('gt_seg_map'), np.ndarray):
            self.look_at_mask(sample['gt_seg_map'], sample.get('img'), where)
        elif self.heads and not self.on_masks and sample.get('gt_bboxes_labels') is not None:
            self.kind = 'labels'
            labels = np.asarray(sample['gt_bboxes_labels'])
            ignored = np.asarray(sample.get('gt_ignore_flags', np.zeros(len(labels))), bool)
            self.note({int(label) for label in labels[~ignored]}, None, where)
            self.look_at_boxes(sample, ~ignored, where)

    def look_at_boxes(self, sample: dict, counted: np.ndarray, where: str) -> None:
        boxes, image = sample.get('gt_bboxes'), sample.get('img')
        boxes = np.asarray(getattr(boxes, 'tensor', boxes))
        if boxes.shape != (len(counted), 4) or not isinstance(image, np.ndarray):
            return
        self.boxes += int(counted.sum())
        left, top, right, bottom = boxes.T
        outside = (right <= 0) | (bottom <= 0) | (left >= image.shape[1]) | (top >= image.shape[0])
        bad = counted & ((right <= left) | (bottom <= top) | outside)
        self.strange += [f'{where} has {box.tolist()}' for box in boxes[bad].round(1)]

    def look_at_mask(self, mask: np.ndarray, image: np.ndarray | None, where: str) -> None:
        if mask.ndim != 2:
            raise UserError(
                f'{where} is a colour picture of shape {mask.shape}, and a mask has one number a pixel, its class',
                'convert it',
                ENVIRONMENT,
            )
        if image is not None and image.shape[:2] != mask.shape:
            raise UserError(
                f'{where} has {mask.shape[0]} x {mask.shape[1]} pixels, and its picture {image.shape[0]} x '
                f'{image.shape[1]}',
                'make them of one size',
                ENVIRONMENT,
            )
        self.kind = 'labels'
        self.note(set(np.unique(mask).tolist()), self.ignored(), where)

    def ignored(self) -> int:
        return getattr(self.heads[0][1], 'ignore_index', 255)

    def note(self, labels: set[int], ignored: int | None, where: str) -> None:
        self.labels |= labels
        for name, head in self.heads:
            # One channel is that of the foreground, label 1, and label 0 is what is not.
            last = max(head.num_classes - 1, 1 if self.on_masks else 0)
            beyond = sorted(label for label in labels - {ignored} if not 0 <= label <= last)
            if beyond:
                raise UserError(
                    f'{where} has the label {_listed(set(beyond))}, and model.{name}.num_classes={head.num_classes} '
                    f'leaves 0 to {last}',
                    'set num_classes of every head, the metainfo.classes of the data sets, or reduce_zero_label',
                )

    def compare(self) -> None:
        if self.strange:
            warn(
                f'{len(self.strange)} of the {self.boxes} boxes of {self.name} that were looked at have no area or lie '
                f'outside of their picture ({self.strange[0]}: left, top, right, bottom): correct or remove them'
            )
        if not self.heads or not self.labels:
            return
        name, head = self.heads[0]
        ignored = self.ignored() if self.on_masks else None
        kept = self.labels - {ignored}
        if not kept:
            raise UserError(
                f'every pixel of the masks of {self.name} that were looked at is ignored (label {ignored})',
                'check reduce_zero_label and the values of the masks',
            )
        # Of one channel, label 1 alone is all that there is to find, and label 0 alone nothing.
        if ignored in self.labels and len(kept) == 1 and (head.num_classes > 1 or kept == {0}):
            warn(
                f'the masks of {self.name} that were looked at hold {_listed(self.labels)}, and {ignored} is ignored: '
                f'class {min(kept)} alone can be learned. If {ignored} is a class, write its number into the masks'
            )
        if self.classes and self.classes != head.num_classes and not self.on_masks:
            raise UserError(
                f'model.{name}.num_classes={head.num_classes}, and {self.name} has {self.classes} classes',
                f'set model.{name}.num_classes={self.classes} (and of every other head), or metainfo.classes',
            )
        if self.classes and self.classes != head.num_classes and head.num_classes > 1:
            warn(f'model.{name}.num_classes={head.num_classes}, and {self.name} has {self.classes} classes')


def _listed(labels: set[int]) -> str:
    """Return a few numbers one by one, many as a range."""
    numbers = sorted(labels)
    if len(numbers) <= 4:
        return ', '.join(map(str, numbers))
    last = [n for n in numbers if n == 255 and numbers[-2] < 254]
    inner = [n for n in numbers if n not in last]
    return f'{inner[0]} to {inner[-1]}' + ''.join(f' and {n}' for n in last)
