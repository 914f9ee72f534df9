#!/usr/bin/env python
"""Train recipes for one iteration at full width, on pictures that are made up, to see what a newcomer's first one does.

    python tools/analysis_tools/train_one_step.py                 # the smallest size of each family
    python tools/analysis_tools/train_one_step.py --match base    # others, by a regular expression on the file's name

Model, losses, optimizer and the pictures' size are the recipe's; so is the batch, up to --most pictures. A recipe that
is refused with its own batch (UperNet's pooled maps with one picture) is shown with what the tools tell the user to
do, and trained with two. Each runs in a process of its own, one after the other. For each: seconds of the iteration,
peak of the process's memory, the loss, and how many gradients are missing or not finite. The exit status is 1 if any
are, or if a recipe fails.

It measures mmvim itself, from a checkout; detectors need mmcv's compiled operators.
"""

import argparse
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from taking_turns import ROOT

sys.path.insert(0, str(ROOT))

SMALLEST = r'(tiny|nano|micro|-l1)(?!.*s2l5)'
OBJECTS = 3  # in each picture of a detector


def recipes(match: str) -> list[str]:
    """Return the recipes in the families' folders whose file has a match."""
    files = sorted((ROOT / 'configs').glob('*/*_*.py'))
    kept = [file for file in files if re.search(match, file.stem) and file.parent.name not in ('_base_', 'demo')]
    return [str(file.relative_to(ROOT / 'configs')) for file in kept if re.search(r'_(ade20k|coco)', file.stem)]


def samples(model: Any, batch: int, size: tuple[int, int]) -> dict[str, list]:
    """Return pictures of noise, with labels of a segmentor or boxes and masks of a detector."""
    import torch

    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for _ in range(batch)]
    if hasattr(model, 'decode_head'):
        return {'inputs': inputs, 'data_samples': [labelled(model, size, generator) for _ in inputs]}
    return {'inputs': inputs, 'data_samples': [boxed(model, size, generator) for _ in inputs]}


def labelled(model: Any, size: tuple[int, int], generator: Any) -> Any:
    """Return a segmentor's sample."""
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo={'img_shape': size, 'ori_shape': size})
    classes = model.decode_head.num_classes
    sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, *size), generator=generator))
    return sample


def boxed(model: Any, size: tuple[int, int], generator: Any) -> Any:
    """Return a detector's sample."""
    import numpy as np
    import torch
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    height, width = size
    corners = torch.rand(OBJECTS, 2, generator=generator) * 0.5
    sides = 0.1 + torch.rand(OBJECTS, 2, generator=generator) * 0.4
    boxes = torch.cat([corners, corners + sides], 1) * torch.tensor([width, height, width, height])
    masks = np.zeros((OBJECTS, height, width), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    sample = DetDataSample(metainfo={'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'scale_factor': (1, 1)})
    labels = torch.randint(0, 80, (OBJECTS,), generator=generator)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=BitmapMasks(masks, height, width))
    return sample


def train(recipe: str, most: int) -> bool:
    """Train a recipe for an iteration, print a row, and return whether all was well."""
    import torch
    from mmengine.optim import build_optim_wrapper

    from mmvim.cli import UserError, build_model, load_config
    from mmvim.cli.first_step import check_first_step, picture_size

    torch.manual_seed(0)
    cfg = load_config(str(ROOT / 'configs' / recipe))
    cfg.launcher = 'none'
    cfg.optim_wrapper.type = 'OptimWrapper'  # half precision is for GPUs
    for key in ('loss_scale', 'dtype'):
        cfg.optim_wrapper.pop(key, None)
    model = build_model(cfg)
    model.init_weights()
    told = ''
    try:
        check_first_step(cfg, model)
    except UserError as error:
        told = f'told: {str(error).split("; ", 1)[-1]}'
        cfg.train_dataloader.batch_size = 2
        check_first_step(cfg, model)
    batch, size = min(cfg.train_dataloader.batch_size, most), picture_size(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    start = time.perf_counter()
    model.train()
    data = model.data_preprocessor(samples(model, batch, size), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    wild = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    optimizer.step()
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    cells = [
        recipe.removesuffix('.py'),
        f'{batch} of {cfg.train_dataloader.batch_size}',
        f'{size[0]} x {size[1]}',
        f'{seconds:.1f}',
        f'{memory:.1f}',
        f'{loss.item():.3f}',
        ', '.join(filter(None, [told, _count('no gradient', missing), _count('not finite', wild)])) or 'fine',
    ]
    print(f'| {" | ".join(cells)} |', flush=True)
    return bool(loss.isfinite()) and not missing and not wild


def _count(what: str, names: list[str]) -> str:
    return f'{what}: {len(names)}, such as {names[0]}' if names else ''


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--match', default=SMALLEST, help="of the recipe's file name. Defaults to the smallest sizes")
    parser.add_argument('--most', type=int, default=2, help='pictures of a batch. Defaults to 2')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        sys.exit(0 if train(args.worker, args.most) else 1)
    if args.most < 2:
        parser.error('--most must be at least 2: a batch norm after pooling to 1 x 1 needs two pictures')
    found = recipes(args.match)
    if not found:
        parser.error(f'no recipe in configs/ matches {args.match!r}')
    print('| recipe | pictures | size | seconds | peak GiB | loss | |\n|-|-|-|-|-|-|-|', flush=True)
    failed = []
    for recipe in found:
        command = [sys.executable, str(Path(__file__).resolve()), '--worker', recipe, '--most', str(args.most)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        row = next((line for line in done.stdout.splitlines() if line.startswith('| ')), None)
        print(row or f'{recipe} failed: {"".join(done.stderr.strip().splitlines()[-1:])}', flush=True)
        if done.returncode:
            failed.append(recipe)
    print(f'{len(found) - len(failed)} of {len(found)} recipes trained for an iteration')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
