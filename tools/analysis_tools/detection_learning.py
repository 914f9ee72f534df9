#!/usr/bin/env python
"""Train the small detectors of configs/overfit_coco or configs/demo_coco, score them, draw their curves.

    python tools/analysis_tools/detection_learning.py overfit --data-root .../coco
    python tools/analysis_tools/detection_learning.py demo --data-root data/demo/coco

The task 'overfit' trains on the first 16 annotated images of COCO's training split and scores the same images; 'demo'
trains on the training scenes of demo/make_scenes.py and scores the validation scenes. Each
model is trained by tools/train.py and scored by tools/test.py in its own process, one after the other; what is already
in WORK_DIR is not done again. Results go to WORK_DIR/TASK (logs, checkpoints) and OUT (TASK.json, TASK_curves.png, and
for 'demo' overlays of the predictions); the table is printed as Markdown.

It measures mmvim itself, from a checkout.
"""

import argparse
import json
import os
import pickle
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

PICTURES = 16
TRAIN, VAL = ('annotations/instances_train2017.json', 'annotations/instances_val2017.json')
SCORES = ('bbox_mAP', 'bbox_mAP_50', 'segm_mAP', 'segm_mAP_50')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('task', choices=['overfit', 'demo'])
    parser.add_argument('--data-root', required=True, type=Path, help="a folder of COCO's layout")
    parser.add_argument('--only', default='', help='train only the configs whose name contains this')
    parser.add_argument('--threads', type=int, default=1, help='threads of a training. Defaults to 1')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/detection')
    parser.add_argument('--out', type=Path, help='folder of results. Defaults to WORK_DIR/TASK')
    args = parser.parse_args()
    if not (args.data_root / TRAIN).is_file():
        remedy = "give the folder of a data set in COCO's layout"
        if args.task == 'demo':  # the scenes are drawn by the repository, which an installed mmvim does not hold
            remedy = 'run `python demo/make_scenes.py` in a checkout of mmvim and give its data/demo/coco'
        parser.error(f'--data-root {args.data_root} holds no {TRAIN}: {remedy}')
    return args


def first_annotated(source: Path, target: Path, count: int) -> Path:
    """Write the part of a COCO annotation file that belongs to its first ``count`` images with instances, by id."""
    content = json.loads(source.read_text())
    annotated = {item['image_id'] for item in content['annotations'] if not item.get('iscrowd')}
    images = sorted((image for image in content['images'] if image['id'] in annotated), key=lambda image: image['id'])
    if len(images) < count:
        raise SystemExit(f'{source} has {len(images)} pictures with instances; {count} are needed')
    chosen = {image['id'] for image in images[:count]}
    content.update(
        images=images[:count], annotations=[item for item in content['annotations'] if item['image_id'] in chosen]
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content))
    return target


def options(args: argparse.Namespace) -> list[str]:
    """Return the ``--cfg-options`` that point a config to the data."""
    names = {'train': TRAIN, 'val': VAL, 'test': VAL}
    if args.task == 'overfit':
        subset = first_annotated(args.data_root / TRAIN, args.work_dir / f'overfit/instances_{PICTURES}.json', PICTURES)
        names = dict.fromkeys(names, str(subset))
    pairs = [
        f'{name}_dataloader.dataset.{key}={value}'
        for name, ann in names.items()
        for key, value in (('data_root', args.data_root), ('ann_file', ann))
    ]
    return pairs + [f'{name}_evaluator.ann_file={args.data_root / names[name]}' for name in ('val', 'test')]


def run(config: Path, args: argparse.Namespace) -> Path:
    """Train and score one config, and return its work folder."""
    work = args.work_dir / args.task / config.stem
    if (work / 'scores.json').exists():
        return work
    env = {**os.environ, 'OMP_NUM_THREADS': str(args.threads), 'PYTHONPATH': str(ROOT)}
    work.mkdir(parents=True, exist_ok=True)
    with (work / 'output.txt').open('a') as log:

        def call(tool: str, *arguments: str) -> None:
            command = [
                sys.executable,
                str(ROOT / 'tools' / tool),
                str(config),
                *arguments,
                '--work-dir',
                str(work),
                '--cfg-options',
                *options(args),
            ]
            result = subprocess.run(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, check=False)
            if result.returncode:
                tail = (work / 'output.txt').read_text().splitlines()[-5:]
                raise SystemExit('\n'.join([*tail, f'{tool} of {config.name} failed; see {work / "output.txt"}']))

        if not (work / 'last_checkpoint').exists():
            print(f'training {config.stem}', flush=True)
            call('train.py')
        print(f'scoring {config.stem}', flush=True)
        call('test.py', (work / 'last_checkpoint').read_text().strip(), '--out', str(work / 'predictions.pkl'))
    newest = max(work.glob('*/*.json'), key=lambda path: path.stat().st_mtime)  # test.py's own folder
    (work / 'scores.json').write_text(newest.read_text())
    return work


def scalars(work: Path) -> Path:
    """Return the file in which MMEngine recorded the training."""
    return max(work.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_size)


def result(config: Path, work: Path) -> dict:
    """Return scores, size and time of one trained model."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    import mmvim  # noqa: F401  (configs inherit from mmdet::)

    cfg = Config.fromfile(config)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    millions = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in (('backbone_m', model.backbone), ('model_m', model))
    }
    (work / 'classes.json').write_text(json.dumps(cfg.val_dataloader.dataset.get('metainfo', {}).get('classes', [])))
    scores = json.loads((work / 'scores.json').read_text())
    # A score is not recorded if nothing was detected.
    percent = {key: 100 * scores.get(f'coco/{key}', 0.0) for key in SCORES}
    logged = [json.loads(line) for line in scalars(work).read_text().splitlines() if '"loss"' in line]
    return {
        'name': config.stem.split('_')[0],
        **millions,
        **percent,
        'iterations': logged[-1]['step'],
        'seconds_per_iteration': sum(e['time'] for e in logged) / len(logged),
    }


def draw_curves(path: Path, task: str, works: dict[str, Path]) -> None:
    """Draw the training loss and the mask score that the task is about."""
    from mmvim.analysis.curves import Curve, plot_curves, read_curve

    key, name = (
        ('segm_mAP_50', 'mask AP50 (%), training pictures')
        if task == 'overfit'
        else ('segm_mAP', 'mask AP (%), validation scenes')
    )
    scores = {model: read_curve(scalars(work), f'coco/{key}') for model, work in works.items()}
    plot_curves(
        path,
        {model: read_curve(scalars(work), 'loss') for model, work in works.items()},
        {model: Curve(curve.steps, 100 * curve.values) for model, curve in scores.items()},
        score_name=name,
    )


def draw_overlays(path: Path, data_root: Path, works: dict[str, Path], count: int = 5, threshold: float = 0.4) -> None:
    """Draw a table of scenes: the truth, and what each model finds with a score of at least ``threshold``."""
    import cv2
    import numpy as np
    from pycocotools.coco import COCO
    from pycocotools.mask import decode

    from mmvim.analysis.instances import draw_instances, picture_table

    truth = COCO(str(data_root / VAL))
    names = json.loads((works[next(iter(works))] / 'classes.json').read_text())
    label_of = {number: names.index(item['name']) for number, item in truth.cats.items() if item['name'] in names}
    found = {
        model: {
            item['img_id']: item['pred_instances'] for item in pickle.loads((work / 'predictions.pkl').read_bytes())
        }
        for model, work in works.items()
    }
    numbers = sorted(truth.imgs, key=lambda number: -len(truth.getAnnIds(number, iscrowd=False)))
    rows = []
    for number in sorted(numbers[: 4 * count : 4]):  # scenes with many objects, but not only the fullest ones
        image = cv2.imread(str(data_root / 'val2017' / truth.imgs[number]['file_name']))[..., ::-1]
        objects = [
            item for item in truth.loadAnns(truth.getAnnIds(number, iscrowd=False)) if item['category_id'] in label_of
        ]
        empty = np.zeros((0, *image.shape[:2]), np.uint8)
        boxes = np.array([item['bbox'] for item in objects]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = np.array([truth.annToMask(item) for item in objects]) if objects else empty
        row = [draw_instances(image, boxes, masks, [label_of[item['category_id']] for item in objects], names, zoom=2)]
        for by_image in found.values():
            instances = by_image[number]
            keep = np.flatnonzero(np.asarray(instances['scores']) >= threshold)
            masks = np.array([decode(instances['masks'][i]) for i in keep]) if len(keep) else empty
            labels = np.asarray(instances['labels'])[keep].tolist()
            row.append(draw_instances(image, np.asarray(instances['bboxes'])[keep], masks, labels, names, zoom=2))
        rows.append(row)
    picture_table(path, rows, ['truth', *works], colours=256)


def main() -> None:
    """Train, score, draw."""
    args = parse_args()
    args.data_root, args.work_dir = args.data_root.resolve(), args.work_dir.resolve()
    configs = sorted(path for path in (ROOT / f'configs/{args.task}_coco').glob('*.py') if args.only in path.name)
    if not configs:
        raise SystemExit(f'no config in configs/{args.task}_coco has {args.only!r} in its name')
    works = [run(config, args) for config in configs]
    rows = [result(config, work) for config, work in zip(configs, works, strict=True)]
    out = args.out or args.work_dir / args.task
    out.mkdir(parents=True, exist_ok=True)
    by_name = {row['name']: work for row, work in zip(rows, works, strict=True)}
    (out / f'{args.task}.json').write_text(
        json.dumps(
            {
                'models': rows,
                'threads': args.threads,
                'python': platform.python_version(),
                'torch': __import__('torch').__version__,
            },
            indent=1,
        )
        + '\n'
    )
    print('\n| model | backbone (M) | model (M) | iterations | s / it | box AP | box AP50 | mask AP | mask AP50 |')
    print('|-|-|-|-|-|-|-|-|-|')
    for row in rows:
        print(
            '| {name} | {backbone_m:.2f} | {model_m:.2f} | {iterations} | {seconds_per_iteration:.2f} | '
            '{bbox_mAP:.1f} | {bbox_mAP_50:.1f} | {segm_mAP:.1f} | {segm_mAP_50:.1f} |'.format(**row)
        )
    draw_curves(out / f'{args.task}_curves.png', args.task, by_name)
    if args.task == 'demo':
        draw_overlays(out / 'demo_overlays.png', args.data_root, by_name)


if __name__ == '__main__':
    main()
