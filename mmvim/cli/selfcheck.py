"""Every backend of every op on this machine against its definition, in seconds: outputs, gradients, half precision."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mmvim.cli.errors import describe
from mmvim.ops import bi_wkv, scan_paths, selective_scan, selective_scan_paths
from mmvim.ops.backends import PLAIN, REFERENCE, Backends
from mmvim.ops.bi_wkv.interface import BOUNDARIES
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.rms_norm import add_rms_norm
from mmvim.ops.triton_host.device import DEVICES, interpreting

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Of the largest value, in units of the dtype's rounding: sums of some hundred terms, rounded once more for each output.
ALLOWED = {torch.float32: 40, torch.bfloat16: 4, torch.float16: 4}
_GRID = (7, 9)


def _scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, backend: str) -> Tensor:
    paths = scan_paths(('row', 'col_reverse', 'window2_padded'), *_GRID, device=u.device)
    return selective_scan_paths(u, delta, -A.exp(), B, C, D, z, delta_softplus=True, paths=paths, backend=backend)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
    return conv1d_silu(x, weight, bias, left=[3, 0], backend=backend)


def _wkv(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    return torch.cat([bi_wkv(decay / _L, bonus / _L, k, v, boundary=name, backend=backend) for name in BOUNDARIES])


def _norm(x: Tensor, residual: Tensor, weight: Tensor, backend: str) -> Tensor:
    return torch.cat(add_rms_norm(x, residual, weight, backend=backend))


_L = _GRID[0] * _GRID[1]
# Of each op a function, and the shapes of its inputs; those that are float32 in every model are named last.
OPS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...], tuple[int, ...]]] = {
    'selective scan': (
        _scan,
        ((2, 3, 24, _L), (2, 3, 24, _L), (3, 24, 16), (2, 3, 16, _L), (2, 3, 16, _L), (3, 24), (2, 24, _L)),
        (2, 5),
    ),
    'bidirectional WKV': (_wkv, ((24,), (24,), (2, _L, 24), (2, _L, 24)), (0, 1)),
    'short convolution': (_convolution, ((2, 50, 24), (2, 24, 4), (2, 24)), ()),
    'RMS norm': (_norm, ((2, 50, 24), (2, 50, 24), (24,)), ()),
}


@dataclass(frozen=True)
class Check:
    """How far a backend is from the definition.

    Attributes:
        op: The op, as :class:`mmvim.ops.backends.Backends` calls it.
        backend: The backend.
        device: Where it ran, such as 'cpu' or 'cuda:0'.
        dtype: What it ran in.
        error: The largest error of outputs and gradients over the largest value of each; None if it failed.
        problem: Why it is wrong or failed; None if all is well.

    Examples:
        >>> import torch
        >>> from mmvim.cli.selfcheck import Check
        >>> Check('RMS norm', 'torch', 'cpu', torch.float32, 1e-7).problem is None
        True
    """

    op: str
    backend: str
    device: str
    dtype: torch.dtype
    error: float | None
    problem: str | None = None


def placements() -> Iterator[tuple[str, str, str]]:
    """Yield op, backend and device of all that can run here, the definition itself left out.

    Examples:
        >>> from mmvim.cli.selfcheck import placements
        >>> ('selective scan', 'torch', 'cpu') in list(placements())
        True
    """
    gpus = [f'{name}:{i}' for name in DEVICES for i in range(getattr(torch, name).device_count())]
    for op in OPS:
        for backend, (usable, _) in Backends.named(op).available().items():
            if not usable or backend == REFERENCE:
                continue
            own = ['cpu'] if backend == 'native' or (backend == 'triton' and interpreting()) else gpus
            yield from ((op, backend, device) for device in (['cpu', *gpus] if backend == PLAIN else own))


def check(op: str, backend: str, device: str, dtype: torch.dtype) -> Check:
    """Run an op with a backend, forward and backward, and compare with the definition in float64.

    Args:
        op: One of ``OPS``.
        backend: One of the op's.
        device: Where, such as 'cuda:0'.
        dtype: Of the inputs, but for those that are float32 in every model.

    Returns:
        The result. No exception leaves: whatever a compiler, a driver or a library raises is the result's problem.

    Examples:
        >>> import torch
        >>> from mmvim.cli.selfcheck import check
        >>> check('short convolution', 'torch', 'cpu', torch.float32).problem is None
        True
    """
    function, shapes, kept = OPS[op]
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=generator) * 0.5 for shape in shapes]
    given = [x if i in kept else x.to(dtype) for i, x in enumerate(given)]
    try:
        expected = _run(function, [x.double() for x in given], REFERENCE)
        found = _run(function, [x.to(device) for x in given], backend)
    except Exception as error:
        return Check(op, backend, device, dtype, None, f'it failed: {describe(error)}')
    errors = [
        ((y.cpu().double() - true).abs().max() / true.abs().max()).item()
        for y, true in zip(found, expected, strict=True)
    ]
    allowed = ALLOWED[dtype] * torch.finfo(dtype).eps
    bad = [i for i, error in enumerate(errors) if not error <= allowed]  # NaN is bad
    error = max(errors, key=lambda e: e if e == e else float('inf'))
    if not bad:
        return Check(op, backend, device, dtype, error)
    names = ('its output', *(f'the gradient of input {i + 1}' for i in range(len(given))))
    wrong = f'{names[bad[0]]} is off by {errors[bad[0]]:.1e} of its largest value, {allowed:.1e} allowed'
    return Check(op, backend, device, dtype, error, wrong)


def _run(function: Callable[..., Tensor], inputs: list[Tensor], backend: str) -> list[Tensor]:
    """Return the output and the gradients of all inputs, for one gradient of the output."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = function(*inputs, backend=backend)
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape)
    return [y.detach(), *torch.autograd.grad(y, inputs, weight.to(y))]


def scan_seconds(backend: str, device: str, turns: int = 5) -> float:
    """Return the shortest time of a forward scan of Vim-T's at 512 pixels, batch 1, float32.

    Args:
        backend: The backend.
        device: Where.
        turns: Calls that are timed, after one that is not. Defaults to 5.

    Examples:
        >>> from mmvim.cli.selfcheck import scan_seconds
        >>> 0 < scan_seconds('torch', 'cpu', turns=1) < 60
        True
    """
    dim, states, length = 384, 16, 1024
    u, delta = (torch.randn(1, dim, length, device=device) for _ in range(2))
    B, C = (torch.randn(1, 1, states, length, device=device) for _ in range(2))
    A = -torch.ones(dim, states, device=device)
    times = []
    with torch.no_grad():
        for _ in range(turns + 1):
            start = time.perf_counter()
            y = selective_scan(u, delta, A, B, C, delta_softplus=True, backend=backend)
            torch.as_tensor(y).sum().item()  # waits for it
            times.append(time.perf_counter() - start)
    return min(times[1:])
