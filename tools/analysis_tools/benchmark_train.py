#!/usr/bin/env python
"""How long a training step of a config takes, split into data, forward pass, backward pass and optimizer.

    python tools/analysis_tools/benchmark_train.py configs/demo/upernet_vim_demo.py --iters 20

Model, data pipeline, batch, precision and optimizer are the config's, as `mmvim train` would build them; the hooks, the
logging and the learning rate's schedule are left out. Of each step:

    data        what the step waits for a batch: with workers, the time that they have not hidden
    transfer    the data preprocessor: to the device, normalised, padded
    forward     the losses, their sum included
    backward    their gradients
    optimizer   clipping, the step, and clearing the gradients

A GPU is waited for after each part, so that a part has the time of its own kernels; without that the steps would
overlap, and the total is therefore an upper bound there. The median and the shortest of the timed steps are printed,
after --warmup steps that are not. The model starts from what its constructors give: no weights are read.

It measures mmvim itself, from a checkout; for the operators within a step see profile_step.py.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from taking_turns import ROOT

sys.path.insert(0, str(ROOT))

PARTS = ('data', 'transfer', 'forward', 'backward', 'optimizer')


def parse_args(argv: Sequence[str] | None = None) -> Any:
    """Read the command line."""
    from mmvim.cli.arguments import AMP_KINDS, OptionsAction
    from mmvim.cli.errors import OneLineParser

    parser = OneLineParser(prog='benchmark_train.py', description='Split a training step into its parts.')
    parser.add_argument('config', metavar='CONFIG', help="a file, or the name of one of mmvim's")
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='override settings of the config'
    )
    parser.add_argument('--iters', type=int, default=20, help='timed steps. Defaults to 20')
    parser.add_argument('--warmup', type=int, default=3, help='steps before, which are not timed. Defaults to 3')
    parser.add_argument('--amp', choices=AMP_KINDS, help="mixed precision. Defaults to the config's")
    parser.add_argument('--threads', type=int, help="of PyTorch on a CPU. Defaults to PyTorch's own choice")
    parser.add_argument('--json', metavar='FILE', help='write the seconds of every step here')
    args = parser.parse_args(argv)
    if args.iters < 1 or args.warmup < 0:
        parser.error(f'--iters {args.iters} must be at least 1 and --warmup {args.warmup} at least 0')
    if args.threads is not None and args.threads < 1:
        parser.error(f'--threads {args.threads} must be at least 1')
    return args


def build(args: Any, work_dir: str) -> tuple[Any, Any, Any]:
    """Build model, optimizer and data loader, as the runner of a training does, and nothing else of it.

    Args:
        args: The command line.
        work_dir: Folder for what MMEngine logs.

    Returns:
        The model in training mode on its device, the optimizer's wrapper and the data loader.

    Raises:
        UserError: If the config or its data is wrong.
    """
    from mmengine.runner import Runner

    from mmvim.cli import keep_freed_memory
    from mmvim.cli.config import check_compiled_ops, load_config
    from mmvim.cli.data import check_data
    from mmvim.cli.machine import fit_to_cpu, has_accelerator, set_precision
    from mmvim.cli.noise import quiet

    if not has_accelerator():
        keep_freed_memory()
    cfg = load_config(args.config, args.cfg_options)
    cfg.work_dir, cfg.launcher, cfg.log_level = work_dir, 'none', 'ERROR'
    cfg.custom_hooks, cfg.load_from, cfg.resume = [], None, False
    cfg.visualizer = {'type': 'Visualizer'}  # which writes nothing
    for name in ('val_cfg', 'val_dataloader', 'val_evaluator', 'test_cfg', 'test_dataloader', 'test_evaluator'):
        cfg[name] = None
    set_precision(cfg, args.amp)
    check_compiled_ops(cfg)
    check_data(cfg, ('train',))
    if not has_accelerator():
        fit_to_cpu(cfg, ('train',))
    with quiet():
        runner = Runner.from_cfg(cfg)
        optimizer = runner.build_optim_wrapper(cfg.optim_wrapper)
        loader = runner.build_dataloader(cfg.train_dataloader, seed=runner.seed)
    return runner.model.train(), optimizer, loader


def endless(loader: Any) -> Iterator[Any]:
    """Yield batches for ever."""
    while True:
        yield from loader


class Watch:
    """Times parts one after the other; waits for a GPU before it looks at the clock."""

    def __init__(self, device: Any) -> None:
        import torch

        self.wait = torch.cuda.synchronize if device.type == 'cuda' else (lambda: None)
        self.found: dict[str, float] = {}
        self.last = 0.0

    def start(self) -> None:
        """Begin a step."""
        self.found = {}
        self.wait()
        self.last = time.perf_counter()

    def stop(self, part: str) -> None:
        """End a part, which began where the last one ended."""
        self.wait()
        now = time.perf_counter()
        self.found[part] = now - self.last
        self.last = now


def step(model: Any, optimizer: Any, batches: Iterator[Any], watch: Watch) -> dict[str, float]:
    """Run one training step, as MMEngine's ``train_step`` does, and return the seconds of each part."""
    watch.start()
    data = next(batches)
    watch.stop('data')
    with optimizer.optim_context(model):
        data = model.data_preprocessor(data, True)
        watch.stop('transfer')
        losses = model._run_forward(data, mode='loss')
    loss, _ = model.parse_losses(losses)
    loss = optimizer.scale_loss(loss)
    watch.stop('forward')
    optimizer.backward(loss)
    watch.stop('backward')
    if optimizer.should_update():
        optimizer.step()
        optimizer.zero_grad()
    watch.stop('optimizer')
    return watch.found


def table(steps: Sequence[dict[str, float]]) -> str:
    """Return the parts' medians, shortest times and shares of the median step, as Markdown."""
    totals = [sum(found.values()) for found in steps]
    middle = statistics.median(totals)
    lines = ['| part | median, ms | shortest, ms | share |', '|-|-|-|-|']
    for part in PARTS:
        times = [found[part] for found in steps]
        share = sum(times) / sum(totals)
        lines.append(
            f'| {part} | {1e3 * statistics.median(times):.1f} | {1e3 * min(times):.1f} | {100 * share:.1f} % |'
        )
    lines.append(f'| step | {1e3 * middle:.1f} | {1e3 * min(totals):.1f} | 100 % |')
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Build, time and print.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.
    """
    import tempfile

    import torch

    args = parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        model, optimizer, loader = build(args, folder)
        device = next(model.parameters()).device
        watch, batches = Watch(device), endless(loader)
        found = [step(model, optimizer, batches, watch) for _ in range(args.warmup + args.iters)][args.warmup :]
    where = torch.cuda.get_device_name(device) if device.type == 'cuda' else f'CPU, {torch.get_num_threads()} thread(s)'
    pictures = loader.batch_size or loader.batch_sampler.batch_size
    seconds = statistics.median(sum(times.values()) for times in found)
    print(
        f'{args.config}: {where}, {pictures} picture(s) a step, {pictures / seconds:.2f} pictures/s, {args.iters} steps'
    )
    print(table(found))
    if args.json:
        about = {'config': args.config, 'device': where, 'batch': pictures, 'torch': torch.__version__, 'steps': found}
        Path(args.json).write_text(json.dumps(about, indent=1))


if __name__ == '__main__':
    from mmvim.cli.errors import run_tool

    run_tool(main)
