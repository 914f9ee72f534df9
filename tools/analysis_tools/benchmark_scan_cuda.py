"""Time of the selective scan on a GPU; what `benchmark_scan.py --device cuda` runs.

Implementations, each fed the same numbers in the memory order that its model leaves them in:
    ours          mmvim.ops.selective_scan_paths, all paths in one call (backend 'triton')
    mamba_ssm     mamba_ssm's CUDA kernel with the flips (Vim) or the cross-scan copies and the merge (VMamba) that the
                  published model makes around it; left out where mamba_ssm is not installed
    copies        the same copies and merge around our own kernel, one path at a time in their order
    torch         plain PyTorch (backend 'torch')
and the two limits of the machine, measured in the same run:
    bandwidth     bytes of all inputs and outputs (and, backward, of the inputs again and the gradients) at the speed
                  of a copy of 1 GiB
    exponentials  N + 2 (backward N + 4) exponentials a path, batch element, channel and token, at the speed of a
                  kernel that does nothing else

Times are medians of CUDA events with the L2 cache cleared in between (triton.testing.do_bench). "% of limit" is the
larger limit over the time. Outputs and gradients of one batch element are compared with those of 'torch' before
anything is timed.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

VIM, CROSS = ('forward', 'reverse'), ('row', 'col', 'row_reverse', 'col_reverse')
DTYPES = ('float16', 'bfloat16', 'float32')


@dataclass(frozen=True)
class Scan:
    """K paths over (batch, dim, L) with N states, as a model's block runs them."""

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
        return len(self.paths) * self.batch * self.dim * self.length


def shapes() -> list[Scan]:
    """The scans of Vim, VMamba and MambaVision at 224, 512, 1024 and 1248 pixels."""
    found = []
    for pixels, batch in ((224, 64), (512, 16), (1024, 4), (1248, 2)):
        side = pixels // 16
        for arch, dim in (('T', 384), ('S', 768), ('B', 1536)):
            found.append(Scan(f'Vim-{arch} {pixels}', batch, dim, side * side, 16, VIM, True))
        for level in range(4):
            side = -(-pixels // (4 << level))
            found.append(Scan(f'VMamba-T {pixels}, stage {level + 1}', batch, 96 << level, side * side, 1, CROSS,
                              grid=(side, side)))
        side = -(-pixels // 8)
        found.append(Scan(f'VMamba-T v0 {pixels}, stage 2', batch, 384, side * side, 16, CROSS, grid=(side, side)))
    for arch, dim in (('T', 160), ('S', 192), ('B', 256)):
        found.append(Scan(f'MambaVision-{arch} 224, level 3', 64, dim, 196, 8))
        found.append(Scan(f'MambaVision-{arch} 224, level 4', 64, 2 * dim, 49, 8))
        found.append(Scan(f'MambaVision-{arch} 512, level 3', 16, dim, 4096, 8))
        found.append(Scan(f'MambaVision-{arch} 512, level 4', 16, 2 * dim, 1024, 8))
        found.append(Scan(f'MambaVision-{arch} 1024, level 3, window 112', 4, dim, 12544, 8))
        found.append(Scan(f'MambaVision-{arch} 1024, level 4, window 56', 4, 2 * dim, 3136, 8))
        # 78 x 78 and 39 x 39 tokens in the classifiers' windows of 14 and 7, 36 a picture.
        found.append(Scan(f'MambaVision-{arch} 1248, level 3', 2 * 36, dim, 196, 8))
        found.append(Scan(f'MambaVision-{arch} 1248, level 4', 2 * 36, 2 * dim, 49, 8))
    # One picture alone: L is all there is to share among the processors.
    return [*found, Scan('Vim-T 1248, one picture', 1, 384, 6084, 16, VIM, True)]


def make_inputs(scan: Scan, dtype, device: str) -> dict:
    """Random leaves with channels fastest: u, delta, A, B, C, D, z, delta_bias; one u for all paths of a cross scan."""
    import torch
    generator = torch.Generator(device).manual_seed(0)
    k, b, d, n, length = len(scan.paths), scan.batch, scan.dim, scan.d_state, scan.length

    def randn(*size: int, kind=dtype) -> 'torch.Tensor':
        return torch.randn(size, generator=generator, device=device).to(kind)
    own = (k,) if scan.grid is None else ()
    full = torch.float32
    return {'u': randn(b, *own, length, d), 'delta': randn(b, k, length, d), 'A': -torch.exp(randn(k, d, n, kind=full)),
            'B': randn(b, k, length, n), 'C': randn(b, k, length, n), 'D': randn(k, d, kind=full),
            'z': randn(b, length, d) if scan.gate else None, 'bias': randn(k, d, kind=full) - 4}


def ours(scan: Scan, backend: str) -> Callable:
    """All paths in one call."""
    def run(u, delta, A, B, C, D, z, bias):
        from mmvim.ops import scan_paths, selective_scan_paths
        paths = scan.paths if scan.grid is None else scan_paths(scan.paths, *scan.grid, device=u.device)
        y = selective_scan_paths(u.mT, delta.mT, A, B.mT, C.mT, D, None if z is None else z.mT, bias, True,
                                 paths=paths, backend=backend)
        return y.mT
    return run


def with_copies(scan: Scan, single: Callable) -> Callable:
    """The published models' way: flipped or permuted copies, a scan with L fastest, copies back, a sum.

    Args:
        single: (u, delta, A, B, C, D, z, bias) to y, all (B, D, L) with groups in B and C (B, G, N, L).
    """
    import torch

    def flips(u, delta, A, B, C, D, z, bias):
        total = 0
        for k, name in enumerate(scan.paths):
            parts = [x if x is None else x.mT for x in (u[:, k], delta[:, k], B[:, k], C[:, k], z)]
            parts = [x if x is None else x.flip(-1) if name == 'reverse' else x.contiguous() for x in parts]
            y = single(*parts[:2], A[k], parts[2][:, None], parts[3][:, None], D[k], parts[4], bias[k])
            total = total + (y.flip(-1) if name == 'reverse' else y)
        return total.mT

    def permute(parts: list) -> torch.Tensor:
        """One (B, L, C) a path, to (B, K, C, L) in the order of the paths."""
        copies = []
        for name, part in zip(scan.paths, parts, strict=True):
            y = part.mT
            if name.startswith('col'):
                y = y.unflatten(-1, scan.grid).mT.flatten(-2)
            copies.append(y.flip(-1) if name.endswith('reverse') else y)
        return torch.stack(copies, dim=1)

    def cross(u, delta, A, B, C, D, z, bias):
        batch, dim, length, paths = scan.batch, scan.dim, scan.length, len(scan.paths)
        us = permute([u] * paths).reshape(batch, paths * dim, length)
        delta, B, C = (permute(list(x.unbind(1))) for x in (delta, B, C))
        y = single(us, delta.reshape(batch, paths * dim, length), A.flatten(0, 1), B, C, D.flatten(), None,
                   bias.flatten()).view(batch, paths, dim, length)
        total = 0
        for k, name in enumerate(scan.paths):
            part = y[:, k].flip(-1) if name.endswith('reverse') else y[:, k]
            if name.startswith('col'):
                part = part.unflatten(-1, scan.grid[::-1]).mT.flatten(-2)
            total = total + part
        return total.mT
    return flips if scan.grid is None else cross


def implementations(scan: Scan) -> dict[str, Callable]:
    """Those that can run here, ours first."""
    from mmvim.ops import selective_scan

    def single(u, delta, A, B, C, D, z, bias):
        return selective_scan(u, delta, A, B, C, D, z, bias, True, backend='triton')
    found = {'ours': ours(scan, 'triton')}
    if importlib.util.find_spec('mamba_ssm') is not None:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
        found['mamba_ssm'] = with_copies(scan, lambda *x: selective_scan_fn(*x, True))
    return {**found, 'copies': with_copies(scan, single), 'torch': ours(scan, 'torch')}


def copy_bandwidth() -> float:
    """Bytes read and written a second by a copy of 1 GiB."""
    import torch
    from triton.testing import do_bench
    source = torch.empty(1 << 30, dtype=torch.uint8, device='cuda')
    target = torch.empty_like(source)
    return 2 * source.numel() / (1e-3 * do_bench(lambda: target.copy_(source), return_mode='median'))


def exponential_rate() -> float:
    """Exponentials a second of all processors."""
    import torch
    from exponentials_kernel import exponentials
    from triton.testing import do_bench
    programs, block, repeats = 16 * torch.cuda.get_device_properties(0).multi_processor_count, 1024, 2048
    out = torch.empty(programs * block, device='cuda')
    time = do_bench(lambda: exponentials[(programs,)](out, repeats, BLOCK=block, num_warps=4), return_mode='median')
    return programs * block * repeats * 4 / (1e-3 * time)


def limits(scan: Scan, inputs: dict, backward: bool, bandwidth: float, rate: float) -> tuple[float, float]:
    """Milliseconds that the bytes and the exponentials of a call take at least."""
    read = sum(x.numel() * x.element_size() for x in inputs.values() if x is not None)
    out = scan.batch * scan.dim * scan.length * inputs['u'].element_size()
    moved, exponents = read + out, scan.elements * (scan.d_state + 2)
    if backward:
        moved += 2 * read + out
        exponents += scan.elements * (scan.d_state + 4)
    return 1e3 * moved / bandwidth, 1e3 * exponents / rate


def calls(function: Callable, inputs: dict, backward: bool) -> Callable:
    """What is timed."""
    import torch
    if not backward:
        def forward():
            with torch.no_grad():
                return function(**inputs)
        return forward
    leaves = {name: None if x is None else x.detach().requires_grad_() for name, x in inputs.items()}
    wanted = [x for x in leaves.values() if x is not None]
    grad = torch.randn_like(function(**inputs))
    return lambda: torch.autograd.grad(function(**leaves), wanted, grad)


def check(scan: Scan, functions: dict[str, Callable], dtype) -> None:
    """All agree with 'torch' in output and gradients, to the dtype's precision."""
    import torch
    tolerance = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    inputs = make_inputs(scan, dtype, 'cuda')
    expected, grad = None, None
    for name in ('torch', *(name for name in functions if name != 'torch')):
        leaves = {key: None if x is None else x.detach().requires_grad_() for key, x in inputs.items()}
        wanted = {key: x for key, x in leaves.items() if x is not None}
        out = functions[name](**leaves)
        grad = torch.randn_like(out) if grad is None else grad
        found = {'the output': out, **dict(zip(wanted, torch.autograd.grad(out, list(wanted.values()), grad),
                                               strict=True))}
        expected = expected or found
        for key, x in found.items():
            error = ((x.float() - expected[key].float()).abs().max() / expected[key].float().abs().max()).item()
            if not error < tolerance * (1 if key == 'the output' else 3):
                raise SystemExit(f'{scan.name}, {dtype}: {name} differs from torch by {error:.1e} of the largest value '
                                 f'in {key if key == "the output" else f"the gradient of {key}"}')


def measure(scan: Scan, dtype_name: str, names: list[str], bandwidth: float, rate: float) -> list[dict]:
    """Rows of one shape and dtype."""
    import torch
    from triton.testing import do_bench
    dtype = getattr(torch, dtype_name)
    functions = {name: f for name, f in implementations(scan).items() if not names or name in names}
    check(Scan(**{**asdict(scan), 'batch': 1}), implementations(scan), dtype)
    inputs = make_inputs(scan, dtype, 'cuda')
    rows = []
    for backward in (False, True):
        by_bytes, by_exponents = limits(scan, inputs, backward, bandwidth, rate)
        for name, function in functions.items():
            torch.cuda.empty_cache()
            try:
                time = do_bench(calls(function, inputs, backward), return_mode='median')
            except torch.cuda.OutOfMemoryError:
                time = float('nan')
            rows.append({'shape': scan.name, 'dtype': dtype_name, 'implementation': name,
                         'pass': 'forward + backward' if backward else 'forward', 'ms': time,
                         'bandwidth_ms': by_bytes, 'exponentials_ms': by_exponents})
    return rows


HEADER = ['shape', 'dtype', 'pass', 'implementation', 'ms', 'ours is', 'bandwidth limit ms', 'exponentials limit ms',
          '% of limit']


def table(rows: list[dict]) -> list[list[str]]:
    """Lines of the table."""
    base = {(r['shape'], r['dtype'], r['pass']): r['ms'] for r in rows if r['implementation'] == 'ours'}
    lines = []
    for r in rows:
        ours_ms = base.get((r['shape'], r['dtype'], r['pass']))
        ratio = '-' if ours_ms is None or r['implementation'] == 'ours' else f'{r["ms"] / ours_ms:.2f}x as fast'
        share = 100 * max(r['bandwidth_ms'], r['exponentials_ms']) / r['ms']
        lines.append([r['shape'], r['dtype'], r['pass'], r['implementation'], f'{r["ms"]:.4f}', ratio,
                      f'{r["bandwidth_ms"]:.4f}', f'{r["exponentials_ms"]:.4f}', f'{share:.0f}'])
    return lines


def run(args: argparse.Namespace) -> None:
    """Measure what `args` of benchmark_scan.py ask for, print and write it."""
    import platform

    import torch
    import triton
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    chosen = [scan for scan in shapes() if args.shapes in scan.name]
    if not chosen:
        raise SystemExit(f'--shapes {args.shapes!r} fits none of: {", ".join(scan.name for scan in shapes())}')
    if args.quick:
        chosen = sorted(chosen, key=lambda scan: scan.elements * scan.d_state)[:3]
    names = args.implementations.split(',') if args.implementations else []
    unknown = sorted(set(names) - set(implementations(chosen[0])))
    if unknown:
        raise SystemExit(f'--implementations {",".join(unknown)}: not available; there are '
                         f'{", ".join(implementations(chosen[0]))}')
    peer = importlib.metadata.version('mamba_ssm') if importlib.util.find_spec('mamba_ssm') else 'not installed'
    bandwidth, rate = copy_bandwidth(), exponential_rate()
    about = (f'{torch.cuda.get_device_name()}, driver CUDA {torch.version.cuda}, Python {platform.python_version()}, '
             f'PyTorch {torch.__version__}, Triton {triton.__version__}, mamba_ssm {peer}; copy {bandwidth / 1e12:.2f} '
             f'TB/s, {rate / 1e12:.2f}e12 exponentials/s; python {" ".join(sys.argv)}')
    console = Console(width=190)
    console.print(about)
    rows: list[dict] = []
    for scan in chosen:
        for dtype in DTYPES:
            rows += measure(scan, dtype, names, bandwidth, rate)
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
