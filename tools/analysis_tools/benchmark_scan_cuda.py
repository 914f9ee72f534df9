"""Time of the selective scan on a GPU, which ``benchmark_scan.py --device cuda`` measures.

Implementations, each fed the same numbers in the memory order in which its model leaves them (scan_peers.py):
    ours          mmvim.ops.selective_scan_paths, all paths in one call (backend 'triton')
    mamba_ssm     mamba_ssm's CUDA kernel with the flips (Vim) or the cross-scan copies and the merge (VMamba) that the
                  published model makes around it; from the package, or from its compiled module selective_scan_cuda
                  alone where that is on the path; 'not installed' where there is neither
    copies        the same copies and merge around our own kernel
    torch         plain PyTorch (backend 'torch')
and the two limits of the machine, measured in the same run:
    bandwidth     bytes of all inputs and outputs (and, backward, of the inputs again and the gradients) at the speed
                  of a copy of 1 GiB
    exponentials  N + 2 (backward N + 4) exponentials a path, batch element, channel and token, at the speed of a
                  kernel that does nothing else

Times are medians of CUDA events with the L2 cache cleared in between (triton.testing.do_bench): of the call as a script
makes it ("ms", Python's share included where the GPU waits for it), and of the same call replayed from a CUDA graph,
which is the GPU's own time (not for 'torch', whose graphs would be huge). Ratios and percentages use the second where
there is one. Outputs and gradients of one batch element are compared with those of 'torch' before anything is timed;
an implementation that differs is reported, left out, and makes the exit status 1.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gpu_timing import copy_bandwidth, exponential_rate, graph_time, time_of

if TYPE_CHECKING:
    import torch
    from scan_peers import Way

VIM, CROSS = ('forward', 'reverse'), ('row', 'col', 'row_reverse', 'col_reverse')
DTYPES = ('float16', 'bfloat16', 'float32')
NAMES = ('ours', 'mamba_ssm', 'copies', 'torch')


@dataclass(frozen=True)
class Scan:
    """K paths over (B, D, L) with N states, as a model's block runs them.

    Args:
        name: What the tables call it.
        batch: B.
        dim: D.
        length: L.
        d_state: N.
        paths: The names of the K paths. Defaults to one, forward.
        gate: Whether there is a z. Defaults to False.
        grid: Height and width if the paths cross a grid and share u. Defaults to None, a sequence.
    """

    name: str
    batch: int
    dim: int
    length: int
    d_state: int
    paths: tuple[str, ...] = ('forward',)
    gate: bool = False
    grid: tuple[int, int] | None = None

    @property
    def elements(self) -> int:
        """Number of (path, batch, channel, token)."""
        return len(self.paths) * self.batch * self.dim * self.length


def shapes() -> list[Scan]:
    """Return the scans of Vim, VMamba and MambaVision at 224, 512, 1024 and 1248 pixels."""
    found = []
    for pixels, batch in ((224, 64), (512, 16), (1024, 4), (1248, 2)):
        side = pixels // 16
        for arch, dim in (('T', 384), ('S', 768), ('B', 1536)):
            found.append(Scan(f'Vim-{arch} {pixels}', batch, dim, side * side, 16, VIM, True))
        for arch, dim, d_state in (('T', 96, 1), ('B', 256, 1), ('T v0', 192, 16)):
            for level in range(4):
                side = -(-pixels // (4 << level))
                found.append(
                    Scan(
                        f'VMamba-{arch} {pixels}, stage {level + 1}',
                        batch,
                        dim << level,
                        side * side,
                        d_state,
                        CROSS,
                        grid=(side, side),
                    )
                )
    for arch, dim in (('T', 160), ('S', 192), ('B', 256)):
        found.append(Scan(f'MambaVision-{arch} 224, level 3', 64, dim, 196, 8))
        found.append(Scan(f'MambaVision-{arch} 224, level 4', 64, 2 * dim, 49, 8))
        window = 160 if arch == 'S' else 64
        found.append(Scan(f'MambaVision-{arch} 512, level 3, window {window}', 16, dim, window**2, 8))
        window = 56 if arch == 'S' else 32
        found.append(Scan(f'MambaVision-{arch} 512, level 4, window {window}', 16, 2 * dim, window**2, 8))
        found.append(Scan(f'MambaVision-{arch} 1024, level 3, window 112', 4, dim, 12544, 8))
        found.append(Scan(f'MambaVision-{arch} 1024, level 4, window 56', 4, 2 * dim, 3136, 8))
        # 78 x 78 and 39 x 39 tokens in the classifiers' windows of 14 and 7: 36 windows an image.
        found.append(Scan(f'MambaVision-{arch} 1248, level 3', 2 * 36, dim, 196, 8))
        found.append(Scan(f'MambaVision-{arch} 1248, level 4', 2 * 36, 2 * dim, 49, 8))
    # A single image: only L can be divided among the processors.
    return [*found, Scan('Vim-T 1248, one picture', 1, 384, 6084, 16, VIM, True)]


def make_inputs(scan: Scan, dtype: 'torch.dtype', device: str) -> dict:
    """Return random leaves with channels fastest: u (one for all paths of a cross scan), delta, A, B, C, D, z, bias."""
    import torch

    generator = torch.Generator(device).manual_seed(0)
    k, b, d, n, length = len(scan.paths), scan.batch, scan.dim, scan.d_state, scan.length

    def randn(*size: int, kind: torch.dtype = dtype) -> 'torch.Tensor':
        return torch.randn(size, generator=generator, device=device).to(kind)

    own = (k,) if scan.grid is None else ()
    full = torch.float32
    return {
        'u': randn(b, *own, length, d),
        'delta': randn(b, k, length, d),
        'A': -torch.exp(randn(k, d, n, kind=full)),
        'B': randn(b, k, length, n),
        'C': randn(b, k, length, n),
        'D': randn(k, d, kind=full),
        'z': randn(b, length, d) if scan.gate else None,
        'bias': randn(k, d, kind=full) - 4,
    }


def ours(scan: Scan, backend: str) -> Callable:
    """Return our scan of all paths in one call."""

    def run(u, delta, A, B, C, D, z, bias):
        from mmvim.ops import scan_paths, selective_scan_paths

        paths = scan.paths if scan.grid is None else scan_paths(scan.paths, *scan.grid, device=u.device)
        y = selective_scan_paths(
            u.mT, delta.mT, A, B.mT, C.mT, D, None if z is None else z.mT, bias, True, paths=paths, backend=backend
        )
        return y.mT

    return run


def implementations(scan: Scan) -> dict[str, 'Way']:
    """Return the implementations that can run here, ours first."""
    from scan_peers import Way, mamba_ssm, own_kernel, published_kernel, with_copies

    found = {'ours': Way(ours(scan, 'triton'))}
    peer, _ = mamba_ssm()
    if peer is not None:
        found['mamba_ssm'] = with_copies(scan.paths, scan.grid, published_kernel(peer))
    return {**found, 'copies': with_copies(scan.paths, scan.grid, own_kernel()), 'torch': Way(ours(scan, 'torch'))}


def limits(scan: Scan, inputs: dict, backward: bool, bandwidth: float, rate: float) -> tuple[float, float]:
    """Return the least milliseconds that the bytes and the exponentials of a call take."""
    read = sum(x.numel() * x.element_size() for x in inputs.values() if x is not None)
    out = scan.batch * scan.dim * scan.length * inputs['u'].element_size()
    moved, exponents = read + out, scan.elements * (scan.d_state + 2)
    if backward:
        moved += 2 * read + out
        exponents += scan.elements * (scan.d_state + 4)
    return 1e3 * moved / bandwidth, 1e3 * exponents / rate


def calls(way: 'Way', inputs: dict, backward: bool) -> Callable:
    """Return the call that is timed: forward, or forward and backward."""
    import torch

    leaves = {name: None if x is None else x.detach() for name, x in way.prepare(**inputs).items()}
    if not backward:

        def forward():
            with torch.no_grad():
                return way.run(**leaves)

        return forward
    grad = torch.randn_like(way.run(**leaves))
    wanted = [x.requires_grad_() for x in leaves.values() if x is not None]
    return lambda: torch.autograd.grad(way.run(**leaves), wanted, grad)


def check(scan: Scan, ways: dict[str, 'Way'], dtype: 'torch.dtype', device: str = 'cuda') -> dict[str, str]:
    """Return how each implementation fails, or differs from 'torch' by more than the dtype's precision, by name."""
    import torch

    wrong = {}
    tolerance = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    inputs = make_inputs(scan, dtype, device)
    expected, grad = None, None
    for name in ('torch', *(name for name in ways if name != 'torch')):
        leaves = {key: None if x is None else x.detach().requires_grad_() for key, x in inputs.items()}
        wanted = {key: x for key, x in leaves.items() if x is not None}
        try:
            out = ways[name].run(**ways[name].prepare(**leaves))
            grad = torch.randn_like(out) if grad is None else grad
            grads = torch.autograd.grad(out, list(wanted.values()), grad)
        except Exception as error:  # no error of a peer may end the benchmark
            if name == 'torch':
                raise
            wrong[name] = f'{scan.name}, {dtype}: {name} fails: {type(error).__name__}: {error}'
            continue
        found = {'the output': out, **dict(zip(wanted, grads, strict=True))}
        expected = expected or found
        for key, x in found.items():
            error = ((x.float() - expected[key].float()).abs().max() / expected[key].float().abs().max()).item()
            if not error < tolerance * (1 if key == 'the output' else 3):
                wrong.setdefault(
                    name,
                    f'{scan.name}, {dtype}: {name} differs from torch by {error:.1e} of the largest '
                    f'value in {key if key == "the output" else f"the gradient of {key}"}',
                )
    return wrong


def measure(scan: Scan, dtype_name: str, names: list[str], bandwidth: float, rate: float) -> list[dict]:
    """Return the rows of one shape and dtype; one without times has a field 'differs' or 'missing' instead."""
    import torch
    from scan_peers import mamba_ssm

    dtype = getattr(torch, dtype_name)
    ways = implementations(scan)
    wrong = check(replace(scan, batch=1), ways, dtype)
    inputs = make_inputs(scan, dtype, 'cuda')
    _, reason = mamba_ssm()
    rows = []
    for backward in (False, True):
        by_bytes, by_exponents = limits(scan, inputs, backward, bandwidth, rate)
        for name in NAMES:
            if names and name not in names:
                continue
            row = {
                'shape': scan.name,
                'dtype': dtype_name,
                'implementation': name,
                'pass': 'forward + backward' if backward else 'forward',
                'ms': None,
                'graph_ms': None,
                'bandwidth_ms': by_bytes,
                'exponentials_ms': by_exponents,
            }
            rows.append(row)
            if name in wrong:
                row['differs'] = wrong[name]
                continue
            if name not in ways:
                row['missing'] = reason
                continue
            try:
                call = calls(ways[name], inputs, backward)
            except torch.OutOfMemoryError:
                continue
            row['ms'] = time_of(call)
            if name != 'torch' and row['ms'] is not None:
                row['graph_ms'] = graph_time(call, f'{scan.name}, {dtype_name}, {name}')
    return rows


HEADER = [
    'shape',
    'dtype',
    'pass',
    'implementation',
    'ms',
    'ms in a CUDA graph',
    'ours is',
    'bandwidth limit ms',
    'exponentials limit ms',
    '% of bandwidth limit',
    '% of exponentials limit',
]


def table(rows: list[dict]) -> list[list[str]]:
    """Return the lines of the table."""
    base = {(r['shape'], r['dtype'], r['pass']): r for r in rows if r['implementation'] == 'ours'}
    lines = []
    for r in rows:
        mine = base.get((r['shape'], r['dtype'], r['pass']))
        ratio = '-'
        if mine is not None and r is not mine:
            field = 'graph_ms' if mine['graph_ms'] and r['graph_ms'] else 'ms'
            ratio = f'{r[field] / mine[field]:.2f}x as fast' if mine[field] and r[field] else '-'
        time = r['graph_ms'] or r['ms']
        shown = [f'{r[field]:.4f}' if r[field] else '-' for field in ('ms', 'graph_ms')]
        if 'differs' in r or 'missing' in r:
            shown[0] = r.get('missing', 'differs')
        elif not r['ms']:
            shown[0] = 'out of memory'
        shares = [f'{100 * r[field] / time:.0f}' if time else '-' for field in ('bandwidth_ms', 'exponentials_ms')]
        lines.append(
            [
                r['shape'],
                r['dtype'],
                r['pass'],
                r['implementation'],
                *shown,
                ratio,
                f'{r["bandwidth_ms"]:.4f}',
                f'{r["exponentials_ms"]:.4f}',
                *shares,
            ]
        )
    return lines


def run(args: argparse.Namespace) -> None:
    """Measure what the ``args`` of benchmark_scan.py ask for, print and write it."""
    import platform

    import torch
    import triton
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from scan_peers import mamba_ssm

    chosen = [scan for scan in shapes() if args.shapes in scan.name]
    if not chosen:
        raise SystemExit(f'--shapes {args.shapes!r} fits none of: {", ".join(scan.name for scan in shapes())}')
    if args.quick:
        chosen = sorted(chosen, key=lambda scan: scan.elements * scan.d_state)[:3]
    names = args.implementations.split(',') if args.implementations else []
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise SystemExit(f'--implementations {",".join(unknown)}: unknown; there are {", ".join(NAMES)}')
    _, peer = mamba_ssm()
    bandwidth, rate = copy_bandwidth(), exponential_rate()
    about = (
        f'{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, Python {platform.python_version()}, '
        f'PyTorch {torch.__version__}, Triton {triton.__version__}, mamba_ssm {peer}; copy {bandwidth / 1e12:.2f} '
        f'TB/s, {rate / 1e12:.2f}e12 exponentials/s; python {" ".join(sys.argv)}'
    )
    console = Console(width=220)
    console.print(about)
    rows: list[dict] = []
    for scan in chosen:
        for dtype in DTYPES:
            found = measure(scan, dtype, names, bandwidth, rate)
            for message in dict.fromkeys(row['differs'] for row in found if 'differs' in row):
                print(message, file=sys.stderr)
            rows += found
        console.print(f'done: {scan.name}', style='dim', markup=False)
        if args.json:  # a run may be cut short
            args.json.write_text(json.dumps({'about': about, 'rows': rows}, indent=1) + '\n')
    lines = table(rows)
    output = Table(*HEADER)
    for line in lines:
        output.add_row(*map(escape, line))
    console.print(output)
    if args.markdown:
        head = [f'`{about}`', '', '| ' + ' | '.join(HEADER) + ' |', '|' + '-|' * len(HEADER)]
        args.markdown.write_text('\n'.join([*head, *('| ' + ' | '.join(line) + ' |' for line in lines), '']))
    if any('differs' in row for row in rows):
        raise SystemExit(1)
