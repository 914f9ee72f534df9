#!/usr/bin/env python
"""How fast are mmvim's models on a CPU, beside those that people use? The rows of docs/cpu.md.

    python tools/analysis_tools/benchmark_cpu.py --logs work_dirs/cpu --parts backbone --sides 512 1024
    python tools/analysis_tools/benchmark_cpu.py --logs work_dirs/cpu --write docs/cpu.md

A row is a model, whole or its backbone, at one side of the picture: milliseconds (median) and peak memory of one
picture in every runtime. The model takes turns with DeiT-T (fused attention) and Swin-T, eager, so that a machine that
changes its speed changes it for all; ratios are within a row. A row is a file in LOGS and is not measured again: the
command can be stopped and repeated, also with more runtimes, sides or models. While another process takes more than a
tenth of a core nothing is reported: the row is tried again (--retries), then the command ends. Weights are random,
pictures made up.

Runtimes: eager; optimized (mmvim.optimize_for_inference); bf16 and int8 (autocast and mmvim.deploy.quantize_dynamic,
both optimized); compiled (torch.compile); onnxruntime and openvino, of the exported model at a fixed size. Memory is
the peak of a call above what was resident before it, in a process of its own whose freed memory goes back at once; of
the last three, which take minutes a model to make, it is not measured.

It measures mmvim itself, from a checkout.
"""

import argparse
import contextlib
import ctypes
import json
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from busy import BusyError, Watch
from cpu_models import PARTS, REFERENCES, make, models
from taking_turns import ROOT, Worker, WorkerEnded, serve

sys.path.insert(0, str(ROOT))

RUNTIMES = ('eager', 'optimized', 'bf16', 'int8', 'compiled', 'onnxruntime', 'openvino')
USUAL = ('eager', 'optimized', 'bf16', 'int8')
COSTLY = ('compiled', 'onnxruntime', 'openvino')  # minutes to make: in one process alone, without memory
# Every tensor of 64 KiB or more is a mapping of its own, which the system takes back with the tensor.
EXACT = {'MALLOC_MMAP_THRESHOLD_': '65536'}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--logs', type=Path, required=True, help='folder of the rows')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=[], help='what to measure. Defaults to nothing')
    parser.add_argument('--sides', type=int, nargs='+', default=[512], help='pixels. Defaults to 512')
    parser.add_argument('--models', nargs='+', metavar='NAME', help='parts of names. Defaults to all models')
    parser.add_argument(
        '--runtimes', nargs='+', choices=RUNTIMES, default=list(USUAL), help=f'Defaults to {" ".join(USUAL)}'
    )
    parser.add_argument('--threads', type=int, default=2, help='Defaults to 2')
    parser.add_argument('--rounds', type=int, default=7, help='turns of each at most. Defaults to 7')
    parser.add_argument('--seconds', type=float, default=30.0, help='of a row, but two turns at least. Defaults to 30')
    parser.add_argument('--retries', type=int, default=3, help='of a row beside a busy process. Defaults to 3')
    parser.add_argument(
        '--around',
        metavar='COMMAND',
        help="what makes the machine quiet: run as 'COMMAND begin' before the turns of a row, 'COMMAND end' after them",
    )
    parser.add_argument('--write', type=Path, help='write the tables of this page, and the chart beside it')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    if argv is None and '--worker' in sys.argv:
        return argparse.Namespace(worker=sys.argv[sys.argv.index('--worker') + 1])
    args = parser.parse_args(argv)
    if min(args.sides) < 64 or min(args.threads, args.rounds) < 1 or args.retries < 0:
        parser.error('--sides must be at least 64, --threads and --rounds at least 1, --retries at least 0')
    if not args.parts and args.write is None:
        parser.error('give --parts to measure, --write to write, or both')
    wanted = args.models or ['']
    unknown = next((text for text in wanted if not any(text.lower() in name.lower() for name in models())), None)
    if unknown is not None:
        parser.error(f'--models {unknown} fits none of: {"; ".join(models())}')
    args.names = [name for name in models() if any(text.lower() in name.lower() for text in wanted)]
    return args


def runner(model, runtime: str, job: dict, folder: str) -> Callable:
    """Return what runs a model on a picture (1, 3, side, side) in a runtime."""
    import torch

    import mmvim
    from mmvim.deploy import quantize_dynamic

    if runtime in ('eager', 'compiled'):
        return torch.compile(model) if runtime == 'compiled' else model
    if runtime == 'optimized':
        return mmvim.optimize_for_inference(model)
    if runtime == 'int8':
        return mmvim.optimize_for_inference(quantize_dynamic(model))
    if runtime == 'bf16':
        return torch.autocast('cpu', torch.bfloat16)(mmvim.optimize_for_inference(model))
    from mmvim.deploy import export_onnx
    from mmvim.deploy.compare import session

    file = f'{folder}/model.onnx'
    export_onnx(model, file, sizes=((job['side'], job['side']),), dynamic=False, tolerance=1e-2)
    if runtime == 'onnxruntime':
        running = session(file, job['threads'])
        return lambda picture: running.run(None, {'image': picture.numpy()})
    import openvino

    settings = {'INFERENCE_NUM_THREADS': job['threads'], 'INFERENCE_PRECISION_HINT': 'f32'}
    core = openvino.Core()
    request = core.compile_model(core.read_model(file), 'CPU', settings).create_infer_request()
    return lambda picture: request.infer({'image': picture.numpy()})


def resident(field: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def answering(job: dict) -> Callable[[str], object]:
    """Return what answers 'ready RUNTIME', 'time RUNTIME' (ms of a call) and 'memory RUNTIME' (MB)."""
    import torch

    from mmvim.cli import keep_freed_memory
    from mmvim.deploy.compare import picture

    torch.set_num_threads(job['threads'])
    keep_freed_memory()  # but where the environment says otherwise
    with contextlib.redirect_stdout(sys.stderr):
        model, running = make(job['model'], job['part'], job['side']), {}
    x = picture(1, (job['side'], job['side']))
    folder = tempfile.TemporaryDirectory()

    def call(runtime: str) -> float:
        start = time.perf_counter()
        with torch.no_grad():
            running[runtime](x)
        return 1e3 * (time.perf_counter() - start)

    def reply(question: str) -> object:
        what, runtime = question.split()
        if what == 'time':
            return call(runtime)
        try:
            if runtime not in running:
                running[runtime] = runner(model, runtime, job, folder.name)
            call(runtime)
        except Exception as error:  # an exporter or compiler that does not know the model
            running.pop(runtime, None)
            return {'failed': f'{type(error).__name__}: {" ".join(str(error).split())[:100]}'}
        if what == 'ready':
            return {}
        getattr(ctypes.CDLL(None), 'malloc_trim', lambda _: None)(0)
        Path('/proc/self/clear_refs').write_text('5')  # the peak restarts from what is resident now
        before = resident('VmRSS')
        call(runtime)
        running.pop(runtime)
        return {'mb': (resident('VmHWM') - before) / 1e6}

    def answer(question: str) -> object:
        with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no answer
            return reply(question)

    return answer


@contextlib.contextmanager
def quietly(command: str | None) -> Iterator[None]:
    """Run 'COMMAND begin' before what is timed and 'COMMAND end' after it, come what may."""
    if command is None:
        yield
        return
    try:
        subprocess.run([*shlex.split(command), 'begin'], check=True)
        yield
    finally:
        subprocess.run([*shlex.split(command), 'end'], check=True)


class Rows:
    """The rows of one part and side: the models that they have in common stay there from row to row.

    Args:
        part: 'backbone' or 'whole'.
        side: In pixels.
        args: The command line.
    """

    def __init__(self, part: str, side: int, args: argparse.Namespace) -> None:
        self.part, self.side, self.args = part, side, args
        self.references: dict[str, Worker] = {}

    def start(self, name: str, env: dict[str, str] | None = None) -> Worker:
        """Start the process of a model."""
        job = {'model': name, 'part': self.part, 'side': self.side, 'threads': self.args.threads}
        return Worker(__file__, job, {'PYTHONWARNINGS': 'ignore', **(env or {})})

    def measure(self, name: str, runtimes: list[str]) -> dict:
        """Return the numbers of a model in runtimes.

        Raises:
            BusyError: If another process was busy.
        """
        for reference in REFERENCES:
            if reference not in self.references:
                self.references[reference] = self.start(reference)
                self.references[reference].ask('ready eager')
        own, aside = self.start(name), self.start(name, EXACT)
        try:
            found: dict[str, dict] = {
                runtime: {} if runtime in COSTLY else aside.ask(f'memory {runtime}') for runtime in runtimes
            }
            aside.close()
            alive = [runtime for runtime in runtimes if 'failed' not in found[runtime]]
            for runtime in list(alive):
                found[runtime] |= own.ask(f'ready {runtime}')
            alive = [runtime for runtime in alive if 'failed' not in found[runtime]]
            turns = [(found[runtime].setdefault('times', []), own, runtime) for runtime in alive]
            beside: dict[str, dict] = {reference: {'times': []} for reference in REFERENCES}
            turns += [(beside[reference]['times'], self.references[reference], 'eager') for reference in REFERENCES]
            with quietly(self.args.around):
                watch, begin = Watch(), time.monotonic()
                for turn in range(self.args.rounds):
                    if turn >= 2 and time.monotonic() - begin > self.args.seconds:
                        break
                    for times, worker, runtime in turns:
                        times.append(round(worker.ask(f'time {runtime}'), 2))
                        watch.check()
                watch.check(last=True)
        finally:
            own.close()
            aside.close()
        for numbers in (*found.values(), *beside.values()):
            if numbers.get('times'):
                numbers['ms'] = statistics.median(numbers['times'])
        return {'runtimes': found, 'references': beside}

    def close(self) -> None:
        """End the processes."""
        for worker in self.references.values():
            worker.close()


def machine() -> dict[str, str]:
    """Return what was measured on, and with."""
    import torch

    cpu = Path('/proc/cpuinfo')
    lines = cpu.read_text('utf-8').splitlines() if cpu.exists() else []
    names = [line.partition(': ')[2] for line in lines if line.startswith('model name')]
    return {
        'cpu': f'{len(names)} x {names[0]}' if names else platform.processor(),
        'python': platform.python_version(),
        'torch': torch.__version__,
    }


def measure_row(rows: Rows, name: str, args: argparse.Namespace) -> None:
    """Measure what is missing of a row, and write it.

    Raises:
        SystemExit: If another process was busy each time, or a process has ended.
    """
    label = ''.join(letter if letter.isalnum() else '_' for letter in name)
    file = args.logs / f'{rows.part}-{rows.side}-{label}.json'
    known = json.loads(file.read_text('utf-8')) if file.exists() else {}
    missing = [runtime for runtime in args.runtimes if runtime not in known.get('runtimes', {})]
    if not missing:
        return
    if known and 'eager' not in missing:
        missing.insert(0, 'eager')  # ratios are within what was measured together
    for attempt in range(args.retries + 1):
        try:
            found = rows.measure(name, missing)
            break
        except WorkerEnded as error:
            raise SystemExit(f'{name}, {rows.part}, {rows.side}: a process {error}') from error
        except BusyError as error:
            print(f'{name}, {rows.part}, {rows.side}: not reported, {error}', file=sys.stderr, flush=True)
            if attempt == args.retries:
                raise SystemExit(
                    'stop the other process and repeat the command; rows that are done are kept'
                ) from error
            time.sleep(5)
    model = models()[name]
    entry = {'model': name, 'part': rows.part, 'side': rows.side, 'threads': args.threads, 'own': model.own}
    entry |= {'mIoU': model.miou, 'source': model.source, 'machine': machine(), 'references': found['references']}
    entry['runtimes'] = {**known.get('runtimes', {}), **found['runtimes']}
    partial = file.with_suffix('.part')
    partial.write_text(json.dumps(entry, indent=1) + '\n', 'utf-8')
    partial.replace(file)
    numbers = ', '.join(
        f'{runtime} {value.get("ms", 0):.0f} ms' if 'ms' in value else f'{runtime} failed'
        for runtime, value in found['runtimes'].items()
    )
    beside = ', '.join(f'{reference} {value["ms"]:.0f}' for reference, value in found['references'].items())
    print(f'{name}, {rows.part}, {rows.side}: {numbers} ({beside})', flush=True)


def main() -> None:
    """Measure and write."""
    args = parse_args()
    if args.worker is not None:
        serve(answering(json.loads(args.worker)))
        return
    if args.parts:
        args.logs.mkdir(parents=True, exist_ok=True)
    for part in args.parts:
        for side in args.sides:
            rows = Rows(part, side, args)
            try:
                for name in args.names:
                    measure_row(rows, name, args)
            finally:
                rows.close()
    if args.write is not None:
        from cpu_table import write

        write(args.logs, args.write)


if __name__ == '__main__':
    main()
