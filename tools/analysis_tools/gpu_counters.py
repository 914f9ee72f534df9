#!/usr/bin/env python
"""What the counters of a GPU say of the scan's kernels, beside what counts and the model of time make one expect.

    python tools/analysis_tools/gpu_counters.py --markdown counters.md

NVIDIA's Nsight Compute (``ncu``) runs the scans of SCANS, forward and backward in float16, and reads for each kernel:
its time, instructions, those of the unit of exponentials, bytes written to memory and to the L2 cache, warps at work
and the share of clocks in which a scheduler issues. Expected are, by kernel:

- time: the model's (``mmvim/ops/selective_scan/triton/cut.py``), at the clock of --clock.
- instructions: those counted in machine code of sm_90 for a step, times steps and warps; other architectures differ.
- memory written: the results. Much more means that what waits for a later step does not stay in the L2 cache.
- warps: programs for each processor, or those that find room there.

Where ``ncu`` is missing, or counters are not allowed (ERR_NVGPUCTRPERM: ask for CAP_SYS_ADMIN, or set the driver's
NVreg_RestrictProfilingToAdminUsers=0), there are times alone, PyTorch's. It measures mmvim itself, from a checkout.
"""

import argparse
import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from mmvim.ops.selective_scan.arguments import ScanArguments

# Batch, channels, states, tokens, paths: Vim-T at 224 and 512 pixels, a full GPU and the cliff of old; VMamba's first
# stage; MambaVision's third level.
SCANS = {
    'Vim-T 224, batch 64': (64, 384, 16, 196, 2),
    'Vim-T 512, batch 32': (32, 384, 16, 1024, 2),
    'Vim-T 512, batch 48': (48, 384, 16, 1024, 2),
    'Vim-T 512, batch 64': (64, 384, 16, 1024, 2),
    'VMamba-T 224, stage 1, batch 64': (64, 96, 1, 3136, 4),
    'MambaVision-T 224, level 3, batch 64': (64, 160, 8, 196, 1),
}
METRICS = {
    'gpu__time_duration.sum': 'time',
    'smsp__inst_executed.sum': 'instructions',
    'smsp__inst_executed_pipe_xu.sum': 'of exponentials',
    'dram__bytes_write.sum': 'memory written',
    'lts__t_sectors_op_write.sum': 'L2 sectors written',
    'sm__warps_active.avg.per_cycle_active': 'warps',
    'smsp__issue_active.avg.pct_of_peak_sustained_active': 'issuing, %',
}
OWN = ('scan_forward', 'scan_backward', 'segment_ends', 'chain_segments', 'merge_paths', 'collect_projections')
WRITTEN = (
    'out',
    'y',
    'last_state',
    'boundaries',
    'du',
    'ddelta',
    'dz',
    'dA',
    'shares',
    'dB',
    'dC',
    'dD',
    'dbias',
    'ends',
    'totals',
)
ROWS = ('time', 'instructions', 'of exponentials', 'memory written', 'L2 sectors written', 'warps', 'issuing, %')


class Seen(NamedTuple):
    """One launch and its counters.

    Attributes:
        kernel: Name of the kernel.
        values: Counters by the name of a row: nanoseconds, numbers, bytes.
    """

    kernel: str
    values: dict[str, float]


def arguments(shape: Sequence[int], device: str) -> 'ScanArguments':
    """Return the arguments of a scan, with channels side by side as projections leave them."""
    import torch

    from mmvim.ops.selective_scan.arguments import ScanArguments

    batch, dim, states, length, paths = shape

    def randn(*size: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device=device).normal_()

    full = torch.float32
    u, delta = (randn(batch, paths, length, dim).mT for _ in range(2))
    B, C = (randn(batch, paths, 1, length, states).mT for _ in range(2))
    A, D, bias = (
        -randn(paths, dim, states, dtype=full).exp(),
        randn(paths, dim, dtype=full),
        randn(paths, dim, dtype=full),
    )
    flags = ((-1,) * paths, tuple(k % 2 == 1 for k in range(paths)), (True,) * 4, length, False, True, False)
    return ScanArguments(u, delta, A, B, C, D, None, bias, None, None, *flags, torch.float16)


def run_scans() -> None:
    """Run each scan twice, forward and backward: the first time compiles."""
    import torch

    from mmvim.ops.selective_scan import triton

    for shape in SCANS.values():
        args = arguments(shape, 'cuda')
        for _ in range(2):
            out, _, saved = triton.forward(args, True)
            triton.backward(args, torch.ones_like(out), None, saved)
        torch.cuda.synchronize()


def expected(shape: Sequence[int], processors: int, arch: int, clock: float) -> list[Seen]:
    """Return what each launch of a scan is expected to count, in the order of the launches."""
    import torch

    from mmvim.ops.selective_scan.triton import cut, launches

    args = arguments(shape, 'meta')
    gpu, found = cut.Gpu(processors, arch), []
    with _as_gpu(gpu):
        forward, (out, _, saved) = launches.forward(args, True)
        backward, _ = launches.backward(args, out.mT, None, saved)
    for launch in [*forward, *backward]:
        given: dict[str, Any] = launch.arguments
        name = launch.kernel.fn.__name__
        values = {
            'memory written': float(
                sum(
                    x.numel() * x.element_size()
                    for field in WRITTEN
                    if isinstance(x := given.get(f'{field}_ptr'), torch.Tensor)
                )
            )
        }
        key = {'scan_forward': 'forward', 'scan_backward': 'backward'}.get(name)
        if name == 'segment_ends':
            key = 'segments, adjoint' if given['ADJOINT'] else 'segments'
        if key:
            cost, width, steps = cut.cost_of(key, given['N']), given['BLOCK_D'], given['segment']
            values['time'] = cut.clocks_of(cost, launch.programs, width, steps, gpu) / clock
            values['instructions'] = launch.programs * steps * cost.of_warp(width)
            values['warps'] = min(launch.programs / processors, cost.room(width, gpu))
        found.append(Seen(name, values))
    return found


def _as_gpu(gpu: Any) -> Any:
    """Let tensors without memory be cut as for a GPU."""
    from contextlib import ExitStack
    from unittest import mock

    from mmvim.ops.selective_scan.triton import sizes

    stack = ExitStack()
    stack.enter_context(mock.patch.object(sizes, 'processors', lambda device: gpu.processors))
    stack.enter_context(mock.patch.object(sizes, 'architecture', lambda device: gpu.arch))
    return stack


def read_counters(text: str) -> list[Seen]:
    """Read what ``ncu --csv --print-units base`` prints: a line for each launch and counter.

    Args:
        text: All of it; lines of the program and of ncu itself, which begin with ``==``, are passed over.

    Raises:
        ValueError: If there is no table in it.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID",')), None)
    if start is None:
        raise ValueError(f'ncu printed no table: {text.strip()[-400:]!r}')
    found: dict[str, Seen] = {}
    for row in csv.DictReader(io.StringIO('\n'.join(lines[start:]))):
        name = METRICS.get(row.get('Metric Name') or '')
        kernel = (row.get('Kernel Name') or '').partition('(')[0]
        if name and kernel in OWN:
            value = (row['Metric Value'] or 'nan').replace(',', '')
            found.setdefault(row['ID'], Seen(kernel, {})).values[name] = float('nan' if value == 'n/a' else value)
    return list(found.values())


def second_runs(seen: Sequence[Seen], counts: Sequence[int]) -> list[list[Seen]]:
    """Return the launches of each scan's second run, given how many launches a run of each has.

    Raises:
        ValueError: If there are others than expected.
    """
    if len(seen) != 2 * sum(counts):
        raise ValueError(f'{len(seen)} launches were counted, {2 * sum(counts)} expected')
    found, start = [], 0
    for count in counts:
        found.append(list(seen[start + count : start + 2 * count]))
        start += 2 * count
    return found


def text_of(name: str, value: float | None) -> str:
    """Return a value for the table."""
    if value is None or value != value:
        return '-'
    if name == 'time':
        return f'{value / 1e3:.0f} us'
    if name == 'memory written':
        return f'{value / 1e6:.1f} MB'
    return f'{value:.3g}' if value < 1e4 else f'{value / 1e6:.1f} M'


def table(measured: dict[str, list[Seen]], wanted: dict[str, list[Seen]]) -> str:
    """Return a Markdown table: counted, and expected in brackets."""
    lines = ['| scan | kernel | ' + ' | '.join(ROWS) + ' |', '|' + '-|' * (2 + len(ROWS))]
    for scan, launches in wanted.items():
        for i, launch in enumerate(launches):
            values = measured[scan][i].values if scan in measured else {}
            cells = []
            for row in ROWS:
                cell = text_of(row, values.get(row))
                cells.append(cell + (f' ({text_of(row, launch.values[row])})' if row in launch.values else ''))
            lines.append('| ' + ' | '.join([scan, launch.kernel, *cells]) + ' |')
    return '\n'.join(lines)


def count(ncu: str) -> list[Seen]:
    """Run the scans under ncu and return the counters.

    Raises:
        ValueError: If it fails, with what it says.
    """
    command = [ncu, '--csv', '--print-units', 'base', '--metrics', ','.join(METRICS)]
    command += ['--kernel-name', 'regex:' + '|'.join(OWN), sys.executable, __file__, '--run']
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f'ncu ended with status {done.returncode}: {(done.stdout + done.stderr).strip()[-400:]}')
    return read_counters(done.stdout)


def times_alone() -> list[Seen]:
    """Return the kernels' times by PyTorch's profiler."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run_scans()
    events = sorted((e for e in profile.events() if e.name in OWN), key=lambda e: e.time_range.start)
    return [Seen(e.name, {'time': 1e3 * e.device_time}) for e in events]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--expected', action='store_true', help='only what is expected, which needs no GPU')
    parser.add_argument('--clock', type=float, default=1.755, help='of the GPU, in GHz. Defaults to 1.755, an H200')
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    parser.add_argument('--run', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Count and write."""
    args = parse_args(argv)
    if args.run:
        run_scans()
        return
    import torch

    processors, arch = 132, 90
    if not args.expected:
        if not torch.cuda.is_available():
            raise SystemExit('error: PyTorch finds no GPU; --expected prints what is expected, without one')
        properties = torch.cuda.get_device_properties(0)
        processors, arch = properties.multi_processor_count, 10 * properties.major + properties.minor
    wanted = {name: expected(shape, processors, arch, args.clock) for name, shape in SCANS.items()}
    measured, note = {}, ''
    if not args.expected:
        ncu = shutil.which('ncu')
        try:
            if ncu is None:
                raise ValueError('ncu (Nsight Compute) is not in PATH')
            seen = count(ncu)
        except ValueError as error:
            note = f'\n\nTimes alone: {error}'
            seen = times_alone()
        runs = second_runs(seen, [len(x) for x in wanted.values()])
        measured = dict(zip(wanted, runs, strict=True))
    text = table(measured, wanted) + note
    print(text)
    if args.markdown:
        args.markdown.write_text(text + '\n', 'utf-8')


if __name__ == '__main__':
    main()
