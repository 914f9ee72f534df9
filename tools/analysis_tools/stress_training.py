#!/usr/bin/env python
"""Train a small backbone for a long time on pictures that are meant to break it, and report what came near to breaking.

    python tools/analysis_tools/stress_training.py --models vim:tiny,vrwkv:tiny --precision float16
    python tools/analysis_tools/stress_training.py --models vim:tiny --arch embed_dims=32 depth=4 d_state=8

For each model: the largest |state| of each scan (every --every iterations, in which plain PyTorch scans), of the
bidirectional WKV the largest of the sums that it carries; the loss scale and the steps that it left out; and each
tensor that was not finite, by name: a weight, a gradient that the loss scale did not catch, a running statistic, or,
where the loss was not finite, the output of the first module that made it so. The exit status is 1 if there was any.

A batch is noise of eight classes. Every --odd th one is of another kind, in turn: black, of one value, values of 1e4,
one column of them. On a CPU, autocast stands in for a GPU's; float16 has a gradient scaler there, too.

It measures mmvim itself, from a checkout.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import DictAction
from taking_turns import ROOT
from torch import Tensor, nn

sys.path.insert(0, str(ROOT))

CLASSES = 8
ODD = ('black', 'constant', 'values of 1e4', 'one column of 1e4')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', default='vim:tiny', help='family:arch, several with commas. Defaults to vim:tiny')
    parser.add_argument('--arch', nargs='+', action=DictAction, help="a smaller architecture in place of each one's")
    parser.add_argument('--iters', type=int, default=2000, help='Defaults to 2000')
    parser.add_argument('--precision', default='float16', choices=['float32', 'bfloat16', 'float16'])
    parser.add_argument('--side', type=int, default=64, help='of a picture, in pixels. Defaults to 64')
    parser.add_argument('--batch', type=int, default=8, help='Defaults to 8')
    parser.add_argument('--lr', type=float, default=1e-3, help="AdamW's. Defaults to 1e-3")
    parser.add_argument('--every', type=int, default=50, help='iterations between looks at the states. Defaults to 50')
    parser.add_argument(
        '--odd', type=int, default=100, help='every so many batches one is odd; 0: none. Defaults to 100'
    )
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'], help='Defaults to cpu')
    parser.add_argument('--seed', type=int, default=0, help='Defaults to 0')
    parser.add_argument('--json', type=Path, help='write every number here')
    args = parser.parse_args(argv)
    if min(args.iters, args.every, args.batch) < 1 or args.side < 32 or args.odd < 0:
        parser.error('--iters, --every and --batch must be at least 1, --side at least 32 and --odd at least 0')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch finds no CUDA device')
    return args


class Classifier(nn.Module):
    """A backbone, the mean of its last map, and a linear layer."""

    def __init__(self, model: str, arch: dict | None, side: int) -> None:
        super().__init__()
        from backbones import make

        from mmvim.checkpoints.families import FAMILIES

        name = model.partition(':')[0]
        if arch is None:
            self.backbone = make(model, side)
        else:
            self.backbone = FAMILIES[name].backbone(arch=dict(arch))
        with torch.no_grad():
            channels = self.backbone.eval()(torch.zeros(1, 3, side, side))[-1].shape[1]
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures to logits (B, 8)."""
        return self.head(self.backbone(x)[-1].mean((2, 3)))


class States:
    """The largest |state| of each scan, by the name of the module that runs it.

    A scan's states exist in plain PyTorch alone, chunk by chunk; elsewhere they stay in registers.

    Args:
        model: Its mixers are the modules that say what their scan is.
    """

    def __init__(self, model: nn.Module) -> None:
        self.largest: dict[str, float] = {}
        self.running: str | None = None
        for name, module in model.named_modules():
            if hasattr(module, 'scan_operator'):
                module.register_forward_pre_hook(lambda *_, name=name: setattr(self, 'running', name))
                module.register_forward_hook(lambda *_: setattr(self, 'running', None))

    def note(self, values: Tensor) -> None:
        """Remember the largest of some states of the module that is running; the backward pass has none."""
        if self.running is not None and values.numel():
            largest = values.detach().abs().max().item()
            self.largest[self.running] = max(largest, self.largest.get(self.running, 0.0))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let plain PyTorch scan, and look at the states."""
        from unittest import mock

        from mmvim.ops.backends import ENV, PLAIN
        from mmvim.ops.bi_wkv.plain import Problem
        from mmvim.ops.selective_scan.plain import Scan

        load, mix = Scan.load, Problem.mix

        def loaded(scan: Scan, *args: Any) -> tuple[Tensor, ...]:
            found = load(scan, *args)
            self.note(found[-1])
            return found

        def mixed(problem: Problem, *args: Any) -> Any:
            found = mix(problem, *args)
            self.note(found.total.values)
            return found

        with (
            mock.patch.dict(os.environ, {ENV: PLAIN}),
            mock.patch.object(Scan, 'load', loaded),
            mock.patch.object(Problem, 'mix', mixed),
        ):
            yield


def batches(args: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pictures and labels without end."""
    generator = torch.Generator().manual_seed(args.seed)
    classes = torch.randn(CLASSES, 3, args.side, args.side, generator=generator)
    for number in range(sys.maxsize):
        labels = torch.randint(CLASSES, (args.batch,), generator=generator)
        x = classes[labels] + torch.randn(args.batch, 3, args.side, args.side, generator=generator)
        if args.odd and number % args.odd == args.odd - 1:
            kind = ODD[number // args.odd % len(ODD)]
            if kind == 'values of 1e4':
                x = x.sign() * 1e4
            else:
                x = torch.full_like(x, 1.0 if kind == 'constant' else 0.0)
                if kind == 'one column of 1e4':
                    x[..., 5] = 1e4
        yield x.to(args.device), labels.to(args.device)


def culprit(model: nn.Module, x: Tensor, autocast: Any) -> str:
    """Return the name of the first module that makes something of a batch that is not finite, and its type."""
    found: list[str] = []

    def look(name: str, module: nn.Module, output: Any) -> None:
        tensors = output if isinstance(output, (tuple, list)) else [output]
        if any(isinstance(y, Tensor) and not y.isfinite().all() for y in tensors):
            found.append(f'output of {name or "the model"} ({type(module).__name__})')

    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: look(name, module, output))
        for name, module in model.named_modules()
    ]
    with torch.no_grad(), autocast():
        model(x)
    for handle in handles:
        handle.remove()
    return found[0] if found else 'the loss alone'


def wrong_tensors(model: nn.Module, gradients: bool) -> list[str]:
    """Return the names of weights, running statistics and, if asked for, gradients that are not finite."""
    kept = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    grads = {f'gradient of {name}': p.grad for name, p in model.named_parameters() if p.grad is not None}
    return [name for name, x in {**kept, **(grads if gradients else {})}.items() if not x.isfinite().all()]


def train(name: str, args: argparse.Namespace) -> dict:
    """Train one model and return what was found."""
    torch.manual_seed(args.seed)
    model = Classifier(name, args.arch, args.side).to(args.device).train()
    states, dtype = States(model), getattr(torch, args.precision)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    scaler = torch.amp.GradScaler(args.device, enabled=dtype == torch.float16)
    losses, scales, skipped = [], [scaler.get_scale()], 0
    wrong: dict[str, int] = {}  # the iteration at which each was first seen
    start = time.perf_counter()

    def autocast() -> torch.autocast:
        return torch.autocast(args.device, dtype, enabled=dtype != torch.float32)

    for number, (x, labels) in zip(range(args.iters), batches(args), strict=False):
        looks = number % args.every == 0
        with states.watched() if looks else autocast(), autocast():
            loss = F.cross_entropy(model(x).float(), labels)
        if not loss.isfinite():
            wrong.setdefault(culprit(model, x, autocast), number)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)  # not where a gradient overflowed
        scaler.update()
        overflowed = scaler.get_scale() < scales[-1]
        skipped += overflowed
        scales.append(scaler.get_scale())
        losses.append(loss.item())
        if looks or number == args.iters - 1 or not scaler.is_enabled():
            for tensor in wrong_tensors(model, gradients=not overflowed):
                wrong.setdefault(tensor, number)
        if looks:
            print(f'{name} {number}: loss {losses[-1]:.4f}, scale {scales[-1]:g}', file=sys.stderr, flush=True)
    return {
        'model': name,
        'arch': args.arch,
        'precision': args.precision,
        'iterations': args.iters,
        'seconds': time.perf_counter() - start,
        'first_loss': losses[0],
        'last_loss': statistics.median(losses[-20:]),
        'states': states.largest,
        'scale': {'first': scales[0], 'least': min(scales), 'most': max(scales), 'last': scales[-1]},
        'skipped': skipped,
        'wrong': wrong,
    }


def report(found: dict) -> list[str]:
    """Return the lines that tell of one model."""
    largest = sorted(found['states'].items(), key=lambda item: -item[1])
    scale = found['scale']
    lines = [
        f'{found["model"]}, {found["precision"]}: {found["iterations"]} iterations in {found["seconds"]:.0f} s, '
        f'loss {found["first_loss"]:.3f} to {found["last_loss"]:.3f}',
        'largest states: ' + ', '.join(f'{name} {value:.3g}' for name, value in largest[:3]),
    ]
    if found['precision'] == 'float16':
        lines.append(
            f'loss scale: {scale["first"]:g} at first, {scale["least"]:g} to {scale["most"]:g}, {scale["last"]:g} at '
            f'last; {found["skipped"]} steps left out'
        )
    wrong = ', '.join(f'{name} (iteration {number})' for name, number in found['wrong'].items())
    return [*lines, f'not finite: {wrong or "nothing"}']


def main(argv: list[str] | None = None) -> None:
    """Train, print and write."""
    args = parse_args(argv)
    from mmvim.checkpoints.families import FAMILIES

    names = args.models.split(',')
    for name in names:
        family, _, arch = name.partition(':')
        if family not in FAMILIES or (args.arch is None and arch not in FAMILIES[family].backbone.arch_zoo):
            known = ', '.join(f'{n}:{a}' for n, family in FAMILIES.items() for a in family.backbone.arch_zoo)
            raise SystemExit(f'--models {name!r} is none of: {known}')
    results = []
    for name in names:
        results.append(train(name, args))
        print('\n'.join(report(results[-1])), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + '\n')
    if any(found['wrong'] for found in results):
        sys.exit(1)


if __name__ == '__main__':
    main()
