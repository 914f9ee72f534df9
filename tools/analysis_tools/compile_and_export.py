#!/usr/bin/env python
"""Compile and export models at full size: how long does it take, how many graphs, what differs?

    python tools/analysis_tools/compile_and_export.py --log log.json --images a.jpg b.jpg c.jpg --markdown table.md
    python tools/analysis_tools/compile_and_export.py --log log.json --only vim:tiny   # a row again

A model is a backbone, 'family:arch', or a recipe: of a segmentor the whole, of a detector the backbone. Each step runs
in a process of its own with one thread and without PyTorch's caches; seconds are CPU seconds of that process and its
children, so that other load hardly changes them. A row that --log has is not measured again. The steps:

    compile   torch.compile(dynamic=True, fullgraph=True) with Inductor: seconds of the first picture, graphs that ten
              sizes of more than 224 pixels need, and the largest difference from eager
    train     a backbone's training step the same way, forward and backward; of a segmentor what `compile=True` in a
              config compiles, its whole train_step, with the optimizer's
    program   mmvim.deploy.export_program: seconds, megabytes, the largest difference
    onnx      mmvim.deploy.export_onnx, checked and run in ONNX Runtime: seconds, megabytes, the largest difference

Differences are over the standard deviation of the output, of labels the share of other pixels. With --images they are
of these pictures, resized and normalised as for ImageNet, else of made-up ones. Weights are random.

It measures mmvim itself, from a checkout.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from taking_turns import ROOT

sys.path.insert(0, str(ROOT))

MODELS = (
    'vim:tiny',
    'mambavision:tiny',
    'vmamba:tiny',
    'plainmamba:l1',
    'localvim:tiny',
    'localvmamba:tiny',
    'msvmamba:nano',
    'efficientvmamba:tiny',
    'vrwkv:tiny',
    'upernet_vim_t_ade20k',
    'upernet_mambavision_t_ade20k',
    'mask_rcnn_mambavision_t_coco',
    'mask_rcnn_vim_t_coco',
)
STEPS = ('compile', 'train', 'program', 'onnx')
SIZES = (
    (256, 320),
    (240, 240),
    (320, 256),
    (288, 384),
    (233, 307),
    (384, 230),
    (272, 240),
    (256, 448),
    (352, 264),
    (448, 304),
)
COMPARED = ((512, 512), (512, 672), (384, 512))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--log', type=Path, required=True, help='JSON of the results, read and written')
    parser.add_argument('--only', nargs='+', default=list(MODELS), metavar='MODEL', help='Defaults to all')
    parser.add_argument('--steps', nargs='+', choices=STEPS, default=list(STEPS), help='Defaults to all')
    parser.add_argument('--again', action='store_true', help='measure what --log has, too')
    parser.add_argument('--images', nargs='+', default=[], metavar='IMAGE', help='three pictures to compare on')
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    parser.add_argument('--limit', type=int, default=1800, help='seconds that a step may take. Defaults to 1800')
    parser.add_argument('--worker', nargs=2, metavar=('MODEL', 'STEP'), help=argparse.SUPPRESS)
    return parser.parse_args()


def seconds() -> float:
    """Return the CPU seconds of this process and its children."""
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def build(model: str) -> tuple[Any, Any]:
    """Return a model as a function of pictures, and a segmentor as it was built or None."""
    import torch

    torch.manual_seed(0)
    if ':' in model:
        from backbones import dense_outputs, make

        from mmvim.deploy.parts import Features

        return Features(make(model, 512, dense_outputs(model))), None
    from mmvim.cli import build_model, load_config
    from mmvim.deploy.parts import Features, Segmentor

    built = build_model(load_config(model))
    built.init_weights()
    if hasattr(built, 'decode_head'):
        return Segmentor(built, labels=False), built
    return Features(built.backbone), None


def pictures(images: list[str]) -> list:
    """Return what to compare on, (1, 3, H, W) each, at three sizes."""
    import torch

    from mmvim.deploy.compare import picture

    if not images:
        return [picture(1, size) for size in COMPARED]
    import numpy as np
    from PIL import Image

    found = []
    for file, (height, width) in zip(images, COMPARED, strict=False):
        pixels = np.asarray(Image.open(file).convert('RGB').resize((width, height)), dtype=np.float32)
        pixels = (pixels - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)
        found.append(torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None].contiguous())
    return found


def compiling(model: str) -> dict:
    """Compile for inference, and run ten sizes of two pictures and one picture."""
    import torch
    from torch._dynamo.utils import counters

    from mmvim.deploy.compare import picture

    part = build(model)[0].eval().requires_grad_(False)
    compiled = torch.compile(part, dynamic=True, fullgraph=True)
    worst = 0.0
    with torch.no_grad():
        start = seconds()
        compiled(picture(2, SIZES[0]))
        spent = seconds() - start
        for size in SIZES:
            x = picture(2, size)
            for a, b in zip(as_tuple(compiled(x)), as_tuple(part(x)), strict=True):
                worst = max(worst, ((a - b).abs().max() / b.std()).item())
        graphs = counters['stats']['unique_graphs']
        compiled(picture(1, SIZES[0]))
    return {
        'seconds': spent,
        'graphs': graphs,
        'graphs with one picture': counters['stats']['unique_graphs'],
        'error': worst,
    }


def as_tuple(outputs: Any) -> tuple:
    """Return outputs as a tuple of tensors."""
    import torch

    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def training(model: str) -> dict:
    """Compile a training step: forward and backward of a backbone, the train_step of a segmentor."""
    import torch
    from torch._dynamo.utils import counters

    from mmvim.deploy.compare import picture

    part, segmentor = build(model)
    if segmentor is None:
        part.train()
        for module in part.modules():
            if type(module).__name__ == 'DropPath':
                module.drop_prob = 0.0  # so that both runs are the same
        compiled, found = torch.compile(part, dynamic=True, fullgraph=True), []
        for run in (compiled, part):
            part.zero_grad()
            start = seconds()
            sum(y.square().mean() for y in as_tuple(run(picture(2, SIZES[0])))).backward()
            found.append((seconds() - start, [p.grad.clone() for p in part.parameters() if p.grad is not None]))
        scale = max(b.abs().max() for b in found[1][1])
        error = max(((a - b).abs().max() / scale).item() for a, b in zip(found[0][1], found[1][1], strict=True))
        for size in SIZES[1:4]:
            sum(y.square().mean() for y in as_tuple(compiled(picture(2, size)))).backward()
        return {'seconds': found[0][0], 'graphs': counters['stats']['unique_graphs'], 'error': error}
    from mmengine.optim import build_optim_wrapper
    from train_one_step import samples

    from mmvim.cli import load_config

    cfg = load_config(model)
    cfg.optim_wrapper.type = 'OptimWrapper'  # half precision is for GPUs
    optimizer = build_optim_wrapper(segmentor, {k: v for k, v in cfg.optim_wrapper.items() if k != 'loss_scale'})
    segmentor.train()
    step = torch.compile(segmentor.train_step)  # what MMEngine does with `compile=True`
    losses, spent, start = [], 0.0, seconds()
    for _ in range(3):
        losses.append(float(step(samples(segmentor, 2, (256, 320)), optimizer)['loss']))
        spent = spent or seconds() - start
    finite = all(loss == loss for loss in losses)
    return {
        'seconds': spent,
        'graphs': counters['stats']['unique_graphs'],
        'losses': losses if finite else 'not finite',
    }


def exporting(model: str, kind: str, images: list[str]) -> dict:
    """Export, and compare at three sizes."""
    from mmvim.deploy import export_onnx, export_program

    part = build(model)[0]
    export, suffix = (export_program, '.pt2') if kind == 'program' else (export_onnx, '.onnx')
    with tempfile.TemporaryDirectory() as folder:
        start = seconds()
        done = export(part, f'{folder}/model{suffix}', sizes=COMPARED, pictures=pictures(images))
        spent = seconds() - start
    sizes = {f'{height} x {width}': error for (height, width), error in done.errors.items()}
    return {'seconds': spent, 'megabytes': done.size / 1e6, 'error': max(sizes.values()), 'sizes': sizes}


def work(model: str, step: str, images: list[str]) -> dict:
    """Return a step's results."""
    import torch

    torch.set_num_threads(1)
    if step == 'compile':
        return compiling(model)
    return training(model) if step == 'train' else exporting(model, step, images)


def measure(model: str, step: str, args: argparse.Namespace) -> dict:
    """Run a step in a process of its own, and return its results or why there are none."""
    command = [sys.executable, __file__, '--log', str(args.log), '--worker', model, step]
    settings = {'OMP_NUM_THREADS': '1', 'TORCHINDUCTOR_FORCE_DISABLE_CACHES': '1', 'TORCHINDUCTOR_COMPILE_THREADS': '1'}
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, **settings, 'PYTHONPATH': str(ROOT), 'TORCHINDUCTOR_CACHE_DIR': folder}
        command += ['--images', *args.images] if args.images else []
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=args.limit)
        except subprocess.TimeoutExpired:
            return {'failed': f'took more than {args.limit} s'}
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        return {'failed': ' '.join((done.stderr.strip().splitlines() or ['?'])[-1].split())[:200]}
    return {**json.loads(lines[-1]), 'pictures': 'given' if args.images else 'made up'}


def cell(results: dict, step: str) -> str:
    """Return a step's cell of the table."""
    found = results.get(step)
    if found is None:
        return '-'
    if 'failed' in found:
        return 'failed'
    parts = [f'{found["seconds"]:.0f} s']
    if 'graphs' in found:
        number = found['graphs']
        parts.append('1 graph' if number == 1 else f'{number} graphs')
    if 'megabytes' in found:
        parts.append(f'{found["megabytes"]:.0f} MB')
    if 'error' in found:
        parts.append(f'{found["error"]:.0e}')
    return ', '.join(parts)


def table(log: dict) -> list[str]:
    """Return the lines of a table of all rows."""
    lines = ['| model | compile | training step | program | ONNX |', '|-|-|-|-|-|']
    rows = [model for model in MODELS if model in log] + [model for model in log if model not in MODELS]
    lines += [f'| {model} | ' + ' | '.join(cell(log[model], step) for step in STEPS) + ' |' for model in rows]
    return lines


def main() -> None:
    """Measure what is missing, and write the table."""
    args = parse_args()
    if args.worker is not None:
        model, step = args.worker
        print(json.dumps(work(model, step, args.images)))
        return
    log = json.loads(args.log.read_text('utf-8')) if args.log.is_file() else {}
    for model in args.only:
        for step in args.steps:
            if step in log.get(model, {}) and not args.again:
                continue
            found = measure(model, step, args)
            log.setdefault(model, {})[step] = found
            args.log.write_text(json.dumps(log, indent=1) + '\n', 'utf-8')
            print(model, step, found.get('failed') or cell(log[model], step), flush=True)
    import torch

    lines = [*table(log), '', f'PyTorch {torch.__version__}, one thread, {platform.processor() or platform.machine()}']
    print('\n'.join(lines))
    if args.markdown is not None:
        args.markdown.write_text('\n'.join(lines) + '\n', 'utf-8')


if __name__ == '__main__':
    main()
