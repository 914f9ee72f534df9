#!/usr/bin/env python
"""How fast are exported models? ONNX Runtime and OpenVINO against the model itself, in one run.

    python tools/analysis_tools/benchmark_onnx.py --models vim:tiny,vmamba:tiny --sides 224 512 --markdown table.md

Each model is exported with free sizes and with one fixed size. Eager PyTorch, ONNX Runtime and OpenVINO, free and
fixed, have a process each and take turns, so that other load on the machine affects all alike; each gets one call to
warm up and --rounds turns of --calls calls. The table has the median of the calls' times in milliseconds, and the
largest difference from eager over the standard deviation of its last output. Weights are random, pictures made up.

It measures mmvim itself, from a checkout.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from taking_turns import ROOT, Worker, WorkerEnded, serve

sys.path.insert(0, str(ROOT))

RUNTIMES = ('eager', 'ONNX Runtime', 'OpenVINO', 'ONNX Runtime, fixed', 'OpenVINO, fixed')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--models',
        default='vim:tiny,mambavision:tiny,vmamba:tiny',
        help='family:arch, separated by commas. Defaults to vim:tiny,mambavision:tiny,vmamba:tiny',
    )
    parser.add_argument('--sides', type=int, nargs='+', default=[224, 512], help='pixels. Defaults to 224 512')
    parser.add_argument('--threads', type=int, default=1, help='of each. Defaults to 1')
    parser.add_argument('--rounds', type=int, default=5, help='turns of each. Defaults to 5')
    parser.add_argument('--calls', type=int, default=3, help='calls in a turn. Defaults to 3')
    parser.add_argument('--opset', type=int, default=18, help='Defaults to 18')
    parser.add_argument('--chunk', type=int, default=16, help='steps of a scan at once. Defaults to 16')
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.sides) < 32 or min(args.threads, args.rounds, args.calls) < 1:
        parser.error('--sides must be at least 32, --threads, --rounds and --calls at least 1')
    return args


def build(model: str, side: int):
    """Return a backbone with the same random weights each time, in eval mode."""
    import torch
    from backbones import make

    torch.manual_seed(0)
    return make(model, side).eval()


def export(model: str, side: int, folder: Path, args: argparse.Namespace) -> dict[bool, Path]:
    """Export a model with free sizes and a fixed one; the files, by whether sizes are free."""
    from mmvim.deploy.export import export_onnx
    from mmvim.deploy.parts import Features

    files = {}
    for dynamic in (True, False):
        file = folder / f'{"free" if dynamic else "fixed"}-{side}.onnx'
        sizes = ((side, side),)
        part = Features(build(model, side))
        export_onnx(part, file, sizes=sizes, dynamic=dynamic, opset=args.opset, chunk=args.chunk, tolerance=1e-3)
        files[dynamic] = file
    return files


def runner(job: dict) -> Callable:
    """Return what runs a model on a picture (1, 3, side, side), and returns its last output as an array."""
    import torch

    if job['runtime'] == 'eager':
        model = build(job['model'], job['side'])

        def eager(picture):
            with torch.no_grad():
                outputs = model(torch.from_numpy(picture))
            return (outputs if isinstance(outputs, torch.Tensor) else outputs[-1]).numpy()

        return eager
    if job['runtime'].startswith('ONNX Runtime'):
        from mmvim.deploy.compare import session

        running = session(job['file'], job['threads'])
        return lambda picture: running.run(None, {'image': picture})[-1]
    import openvino

    settings = {'INFERENCE_NUM_THREADS': job['threads'], 'INFERENCE_PRECISION_HINT': 'f32'}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(job['file']), 'CPU', settings)
    request = compiled.create_infer_request()
    return lambda picture: request.infer({'image': picture})[compiled.outputs[-1]]


def answering(job: dict) -> Callable[[str], object]:
    """Return what answers the questions of the process that measures: 'output', or a number of calls."""
    import numpy as np
    import torch

    torch.set_num_threads(job['threads'])
    from mmvim.deploy.compare import picture

    x = picture(1, (job['side'], job['side'])).numpy()
    run = runner(job)
    output = np.array(run(x))

    def answer(question: str) -> object:
        if question == 'output':
            np.save(job['output'], output)
            return True
        spent = []
        for _ in range(int(question)):
            start = time.perf_counter()
            run(x)
            spent.append(1e3 * (time.perf_counter() - start))
        return spent

    return answer


def measure(model: str, side: int, folder: Path, args: argparse.Namespace) -> list[list[str]]:
    """Return the rows of a model at a side."""
    import numpy as np

    files = export(model, side, folder, args)
    workers, times, outputs = {}, {}, {}
    rows = []
    try:
        for runtime in RUNTIMES:
            output = folder / f'{runtime}.npy'
            file = files['fixed' not in runtime]
            job = {'model': model, 'side': side, 'runtime': runtime, 'threads': args.threads}
            job |= {'output': str(output), 'file': str(file)}
            workers[runtime] = Worker(__file__, job)
            workers[runtime].ask('output')
            outputs[runtime], times[runtime] = np.load(output), []
        for _ in range(args.rounds):
            for runtime, worker in workers.items():
                times[runtime] += worker.ask(str(args.calls))
    finally:
        for worker in workers.values():
            worker.close()
    eager = statistics.median(times['eager'])
    for runtime in RUNTIMES:
        error = np.abs(outputs[runtime] - outputs['eager']).max() / outputs['eager'].std()
        own = statistics.median(times[runtime])
        size = '-' if runtime == 'eager' else f'{files["fixed" not in runtime].stat().st_size / 1e6:.1f}'
        rows.append([model, str(side), runtime, f'{own:.1f}', f'{eager / own:.2f}', f'{error:.0e}', size])
    return rows


def main() -> None:
    """Measure and write."""
    args = parse_args()
    if args.worker is not None:
        serve(answering(json.loads(args.worker)))
        return
    import onnxruntime
    import openvino
    import torch
    from backbones import choose

    header = ['model', 'side', 'runtime', 'ms', 'times as fast as eager', 'difference', 'file, MB']
    lines = ['| ' + ' | '.join(header) + ' |', '|-|-|-|-|-|-|-|']
    versions = f'PyTorch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, OpenVINO {openvino.__version__}'
    for model in choose(args.models, ()).values():
        for side in args.sides:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    rows = measure(model, side, Path(folder), args)
                except WorkerEnded as error:
                    raise SystemExit(f'{model} at {side}: a process {error}') from error
            lines += ['| ' + ' | '.join(row) + ' |' for row in rows]
            print('\n'.join(lines[-len(rows) :]), flush=True)
    lines += ['', f'{args.threads} threads, {platform.processor() or platform.machine()}; {versions}']
    print(lines[-1])
    if args.markdown is not None:
        args.markdown.write_text('\n'.join(lines) + '\n', 'utf-8')


if __name__ == '__main__':
    main()
