"""What ``benchmark_scan_cuda.py`` compares the scan with: one path at a time, and the copies that the models make.

Only what the published models do to the tensors around a scan is timed. A peer therefore starts from tensors in the
memory order that its kernel reads. The models compute delta, B and C from tensors that they have already flipped or
permuted, so a peer gets these in the order of each path, without a timed copy.
"""

import functools
import importlib.metadata
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

COMMON = ('delta', 'B', 'C')


class Way(NamedTuple):
    """How an implementation is called: ``run(**prepare(**inputs))``, both differentiable; only ``run`` is timed.

    ``inputs`` are those of ``benchmark_scan_cuda.make_inputs``; the output is (B, L, D).
    """

    run: Callable
    prepare: Callable = dict


class Kernel(NamedTuple):
    """A scan of one path.

    Args:
        single: A function of u, delta, A, B, C, D, z and delta_bias, all (B, D, L), but B and C (B, 1, N, L); its
            output is (B, D, L).
        several: The same without z and for K paths, each with its own u: (B, K, D, L), B and C (B, K, N, L), A
            (K, D, N); its output is (B, K, D, L).
        steps_fastest: Whether neighbouring steps are side by side in memory; else neighbouring channels are.
    """

    single: Callable
    several: Callable
    steps_fastest: bool


def own_kernel(backend: str = 'triton') -> Kernel:
    """Return mmvim's kernel, one path at a time in its order; channels fastest."""
    from mmvim.ops import selective_scan, selective_scan_paths

    def single(u, delta, A, B, C, D, z, bias):
        return selective_scan(u, delta, A, B, C, D, z, bias, True, backend=backend)

    def several(u, delta, A, B, C, D, bias):
        return selective_scan_paths(
            u, delta, A, B, C, D, None, bias, True, paths=('forward',) * u.shape[1], combine='stack', backend=backend
        )

    return Kernel(single, several, False)


def published_kernel(single: Callable) -> Kernel:
    """Return a kernel with steps fastest, which takes several paths as groups of channels."""

    def several(u, delta, A, B, C, D, bias):
        y = single(u.flatten(1, 2), delta.flatten(1, 2), A.flatten(0, 1), B, C, D.flatten(), None, bias.flatten())
        return y.unflatten(1, u.shape[1:3])

    return Kernel(single, several, True)


def swapped(x: Tensor, axis: int, grid: tuple[int, int]) -> Tensor:
    """Return ``x``, whose ``axis`` holds the tokens of a grid (h, w) row by row, with the tokens column by column."""
    return x.unflatten(axis, grid).transpose(axis - 1, axis).flatten(axis - 1, axis)  # h * w -> (h, w) -> w * h


def in_path_order(x: Tensor, name: str, grid: tuple[int, int] | None) -> Tensor:
    """Return ``x`` (B, L, C) in the order of a path."""
    if name.startswith('col'):
        x = swapped(x, -2, grid)
    return x.flip(-2) if name.endswith('reverse') else x


def with_copies(paths: tuple[str, ...], grid: tuple[int, int] | None, kernel: Kernel) -> Way:
    """Return a scan along ``paths`` with the flipped or permuted copies around it that the published models make.

    Vim flips u and z and the output of its second direction. VMamba copies u four times and adds up four outputs:
    ``paths`` are then 'row', 'col' and the reverse of both.

    Args:
        paths: Names of the paths.
        grid: Height and width if the four paths share u; None if each path has its own.
        kernel: What scans a path.
    """
    steps = -1 if kernel.steps_fastest else -2

    def turned(x: Tensor) -> Tensor:
        """Return ``x`` (..., L, C) in the kernel's memory order, its steps on the axis ``steps``."""
        return (x.mT if steps == -1 else x).contiguous()

    def logical(x: Tensor | None) -> Tensor | None:
        return x if x is None or steps == -1 else x.mT

    def split(u, delta, A, B, C, D, z, bias):
        parts = {'z': None if z is None else turned(z)}
        for k, name in enumerate(paths):
            parts |= {
                f'u_{k}': turned(u[:, k]),
                f'A_{k}': A[k].contiguous(),
                f'D_{k}': D[k].contiguous(),
                f'bias_{k}': bias[k].contiguous(),
            }
            parts |= {
                f'{key}_{k}': turned(in_path_order(x[:, k], name, None))
                for key, x in zip(COMMON, (delta, B, C), strict=True)
            }
        return parts

    def flips(**parts):
        total = None
        for k, name in enumerate(paths):
            u, z = parts[f'u_{k}'], parts['z']
            if name == 'reverse':
                u, z = u.flip(steps), None if z is None else z.flip(steps)
            delta, B, C = (logical(parts[f'{key}_{k}']) for key in COMMON)
            y = kernel.single(
                logical(u),
                delta,
                parts[f'A_{k}'],
                B[:, None],
                C[:, None],
                parts[f'D_{k}'],
                logical(z),
                parts[f'bias_{k}'],
            )
            y = y if steps == -1 else y.mT
            y = y.flip(steps) if name == 'reverse' else y
            total = y if total is None else total + y
        return total if steps == -2 else total.mT

    def ordered(u, delta, A, B, C, D, z, bias):
        own = {
            key: turned(torch.stack([in_path_order(x[:, k], name, grid) for k, name in enumerate(paths)], 1))
            for key, x in zip(COMMON, (delta, B, C), strict=True)
        }
        return {'u': turned(u), 'A': A, 'D': D, 'bias': bias, **own}

    def cross(u, delta, A, B, C, D, bias):
        both = torch.stack([u, swapped(u, steps, grid)], 1)
        us = torch.cat([both, both.flip(steps)], 1)
        y = kernel.several(logical(us), logical(delta), A, logical(B), logical(C), D, bias)
        y = y if steps == -1 else y.mT
        both = y[:, :2] + y[:, 2:].flip(steps)
        total = both[:, 0] + swapped(both[:, 1], steps, grid[::-1])
        return total if steps == -2 else total.mT

    return Way(flips, split) if grid is None else Way(cross, ordered)


@functools.cache
def mamba_ssm() -> tuple[Callable | None, str]:
    """Return mamba_ssm's scan as a function of u, delta, A, B, C, D, z, bias, and its version; or None and why not."""
    reasons = []
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        return lambda *x: selective_scan_fn(*x, True), importlib.metadata.version('mamba_ssm')
    except Exception as error:  # however an import fails, the benchmark goes on
        reasons.append(error)
    try:
        import selective_scan_cuda

        return bare_kernel(selective_scan_cuda), 'selective_scan_cuda alone'
    except Exception as error:
        reasons.append(error)
    if all(
        isinstance(error, ModuleNotFoundError) and error.name in ('mamba_ssm', 'selective_scan_cuda')
        for error in reasons
    ):
        return None, 'not installed'
    return None, 'cannot be imported (' + '; '.join(f'{type(x).__name__}: {x}' for x in reasons) + ')'


def bare_kernel(extension: Any) -> Callable:
    """Return a differentiable function made of mamba_ssm's compiled module, which has a ``fwd`` and a ``bwd``."""

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u, delta, A, B, C, D, z, bias):
            out, states, *gated = extension.fwd(u, delta, A, B, C, D, z, bias, True)
            ctx.save_for_backward(u, delta, A, B, C, D, z, bias, states, out)
            return gated[0] if gated else out

        @staticmethod
        def backward(ctx, grad):
            *inputs, states, out = ctx.saved_tensors
            z = inputs[6]
            grad = grad if grad.stride(-1) == 1 else grad.contiguous()
            du, ddelta, dA, dB, dC, dD, dbias, *dz = extension.bwd(
                *inputs, grad, states, None if z is None else out, None, True, False
            )
            return du, ddelta, dA, dB.to(inputs[3].dtype), dC.to(inputs[4].dtype), dD, dz[0] if dz else None, dbias

    return Scan.apply
