"""Draw what a model is trained on: augmented, normalised and padded images with their boxes and masks, or their labels.

    mmvim samples vitdet_vim_t_coco --out work_dirs/samples
    mmvim samples upernet_vim_s_ade20k --out work_dirs/samples

Images pass through the config's training pipeline and data preprocessor, so they are what the model gets. Normalisation
is undone for display, so padding, which is zero, appears in the mean colour. Pixels that a segmentor does not learn
from have no tint.
"""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmvim.analysis.instances import draw_instances, picture_table
from mmvim.analysis.label_maps import draw_labels
from mmvim.cli.arguments import config_parser
from mmvim.cli.config import load_config
from mmvim.cli.data import check_data
from mmvim.cli.errors import UserError, warn
from mmvim.datasets.bands import as_rgb
from mmvim.datasets.load_bands import bands_loader
from mmvim.deploy.drafts import replacing


def _parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = config_parser('samples')
    parser.add_argument('--out', default='work_dirs/samples', metavar='DIR', help='folder. Defaults to %(default)s')
    parser.add_argument('--count', type=int, default=8, help='pictures. Defaults to 8')
    parser.add_argument('--repeat', type=int, default=4, help='times that each is augmented. Defaults to 4')
    parser.add_argument('--width', type=int, default=384, help='width of a picture in the table. Defaults to 384')
    parser.add_argument('--seed', type=int, default=0, help='Defaults to 0')
    parser.add_argument(
        '--bands',
        type=int,
        nargs=3,
        metavar=('R', 'G', 'B'),
        help='bands, from 0, that are shown as red, green and blue. Defaults to the first three',
    )
    return parser.parse_args(argv)


def _sample(
    dataset: BaseDataset, preprocess: ImgDataPreprocessor, index: int, bands: Sequence[int] | None
) -> np.ndarray:
    """Return one image (H, W, 3) uint8, RGB, with its instances or its labels drawn."""
    item = dataset[index]
    data = preprocess({key: [value] for key, value in item.items()}, training=True)
    pixels = data['inputs'][0] * preprocess.std + preprocess.mean
    stretched = item['inputs'].dtype != torch.uint8 and bands_loader(dataset) is not None  # not of 0 to 255
    if len(pixels) == 3 and bands is None and not stretched:
        image = pixels.round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
    else:
        image = as_rgb(pixels.permute(1, 2, 0).numpy(), bands)
    truth, names = data['data_samples'][0], dataset.metainfo['classes']
    if 'gt_sem_seg' in truth and 'gt_instances' not in truth:
        return draw_labels(image, truth.gt_sem_seg.data[0].numpy(), names, dataset.metainfo.get('palette'))
    objects = truth.gt_instances
    return draw_instances(image, objects.bboxes.numpy(), objects.masks.masks, objects.labels.tolist(), names)


def _channels(dataset: BaseDataset, preprocess: ImgDataPreprocessor) -> int:
    """Return how many channels the pictures have: as many as there are means, or as the first has."""
    means = len(preprocess.mean)
    return means if means > 1 else int(dataset[0]['inputs'].shape[0])


def main(argv: Sequence[str] | None = None) -> None:
    """Check, augment, draw.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the command, the config or the data is wrong.
    """
    args = _parse_args(argv)
    for name in ('count', 'repeat', 'width'):
        if getattr(args, name) < 1:
            raise UserError(f'--{name} {getattr(args, name)} is less than 1', 'give a larger number')
    cfg = load_config(args.config, args.cfg_options)
    if cfg.default_scope not in ('mmdet', 'mmseg'):
        raise UserError(f'{args.config} is a config of {cfg.default_scope}', 'give one of a detector or of a segmentor')
    check_data(cfg, ('train',))
    importlib.import_module(f'{cfg.default_scope}.registry')
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    preprocess = MODELS.build(cfg.model.data_preprocessor)
    if cfg.default_scope == 'mmdet' and preprocess.pad_size_divisor < 64:
        warn('the config pads a batch to its largest picture, so the table shows every picture stretched')
    if args.bands is not None:
        channels = _channels(dataset, preprocess)
        if not all(0 <= band < channels for band in args.bands):
            raise UserError(
                f'--bands {" ".join(map(str, args.bands))}: the pictures have {channels} bands, 0 to {channels - 1}',
                'give three of them',
            )
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(min(args.count, len(dataset))):
        pictures = [_sample(dataset, preprocess, index, args.bands) for _ in range(args.repeat)]
        height = round(args.width * pictures[0].shape[0] / pictures[0].shape[1]) if not rows else rows[0][0].shape[0]
        rows.append([cv2.resize(picture, (args.width, height), interpolation=cv2.INTER_AREA) for picture in pictures])
    with replacing(out / 'samples.png') as draft:
        picture_table(draft, rows, [f'draw {number + 1}' for number in range(args.repeat)])
    print(f'{len(rows)} pictures, {args.repeat} times each: {out / "samples.png"}')
