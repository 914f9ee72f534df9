"""What ``benchmark_scan.py`` measures on a CPU: the shapes of vision models, their inputs, and the implementations."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """K paths over (B, D, L) with N states.

    Args:
        name: What the tables call it.
        batch: B.
        dim: D.
        length: L.
        d_state: N.
        paths: The names of the K paths. Defaults to one, forward.
        shared_u: Whether all paths read one u. Defaults to False.
        grid: Height and width if the paths cross a grid. Defaults to None, a sequence.
        shared: Whether all paths read one delta, B and C, too. Defaults to False.
        chain: Whether the paths are one sequence without a reset, with one A. Defaults to False.
    """

    name: str
    batch: int
    dim: int
    length: int
    d_state: int
    paths: tuple[str, ...] = ('forward',)
    shared_u: bool = False
    grid: tuple[int, int] | None = None
    shared: bool = False
    chain: bool = False

    @property
    def elements(self) -> int:
        """Number of (path, batch, channel, step, state), padding steps included."""
        return sum(len(order) for order in orders(self, 'cpu')) * self.batch * self.dim * self.d_state

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of the output: (B, L, D), or (B, K, L, D) of paths in a chain."""
        return (self.batch, *((len(self.paths),) if self.chain else ()), self.length, self.dim)


VIM, CROSS = ('forward', 'reverse'), ('row', 'col', 'row_reverse', 'col_reverse')
# Blocks 1.0 and 3.0 of LocalVMamba-T; MSVMamba's half-resolution branch; EfficientVMamba's ES2D.
LOCAL = ('row_reverse', 'col_reverse', 'window2_padded_reverse', 'window7_padded')
LOCAL_4 = ('row_reverse', 'col_reverse', 'window2_padded_reverse', 'window7_padded_reverse')
HALF = ('row_reverse', 'col', 'col_reverse')
ATROUS = ('atrous2_1', 'atrous2_2', 'atrous2_3', 'atrous2_4')
SHAPES = (
    Shape('one path, D 384, L 1024', 2, 384, 1024, 16),
    Shape('one path, D 384, L 1024, N 8', 2, 384, 1024, 8),
    Shape('one path, D 384, L 1024, N 1', 2, 384, 1024, 1),
    Shape('one path, D 384, L 196', 2, 384, 196, 16),
    Shape('one path, D 384, L 4096', 2, 384, 4096, 16),
    Shape('one path, D 384, L 6084', 2, 384, 6084, 16),
    Shape('Vim-T 224', 2, 384, 197, 16, VIM),
    Shape('Vim-T 512', 2, 384, 1024, 16, VIM),
    Shape('Vim-S 512', 1, 768, 1024, 16, VIM),
    Shape('Vim-T 1248', 1, 384, 6084, 16, VIM),
    Shape('MambaVision-T 224, level 3', 8, 160, 196, 8),
    Shape('MambaVision-T 224, level 4', 8, 320, 49, 8),
    Shape('MambaVision-T 512, level 3', 1, 160, 4096, 8),
    Shape('MambaVision-T 512, level 4', 1, 320, 1024, 8),
    Shape('VMamba-T[s1l8] 224, stage 1', 2, 96, 3136, 1, CROSS, True, (56, 56)),
    Shape('VMamba-T[s1l8] 224, stage 2', 2, 192, 784, 1, CROSS, True, (28, 28)),
    Shape('VMamba-T[s1l8] 224, stage 4', 8, 768, 49, 1, CROSS, True, (7, 7)),
    Shape('VMamba-T v0 224, stage 1', 1, 192, 3136, 16, CROSS, True, (56, 56)),
    Shape('PlainMamba-L1 512', 1, 384, 1024, 16, CROSS, True, (32, 32)),
    Shape('LocalVMamba-T 512, stage 2', 1, 384, 4096, 16, LOCAL, True, (64, 64)),
    Shape('LocalVMamba-T 224, stage 4', 8, 1536, 49, 16, LOCAL_4, True, (7, 7)),
    Shape('MSVMamba-T 224, stage 1, full', 2, 192, 3136, 1, ('row',), True, (56, 56)),
    Shape('MSVMamba-T 224, stage 1, half', 2, 192, 784, 1, HALF, True, (28, 28), True, True),
    Shape('EfficientVMamba-T 224, stage 1', 2, 96, 3136, 16, ATROUS, True, (56, 56), True),
    Shape('EfficientVMamba-T 600, stage 2', 1, 192, 5625, 16, ATROUS, True, (75, 75), True),
)


def make_inputs(shape: Shape, device: str) -> dict:
    """Return random leaves; u and delta with channels fastest, as the projections of a model leave them."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def randn(*size: int) -> 'torch.Tensor':
        return torch.randn(size, generator=generator).to(device)

    k, b, d, n, length = len(shape.paths), shape.batch, shape.dim, shape.d_state, shape.length
    own = () if shape.shared else (k,)
    return {
        'u': randn(b, *(() if shape.shared_u else (k,)), length, d),
        'delta': randn(b, *own, length, d) - 4,
        'A': -torch.exp(randn(*(() if shape.chain else (k,)), d, n)),
        'B': randn(b, *own, length, n),
        'C': randn(b, *own, length, n),
    }


def orders(shape: Shape, device: str) -> list:
    """Return the path of each scan as an index, int64 (T,), -1 at padding steps."""
    import torch

    from mmvim.ops import scan_paths

    forward = torch.arange(shape.length, device=device)
    if shape.grid is None:
        return [forward if name == 'forward' else forward.flip(0) for name in shape.paths]
    return [path.order(device) for path in scan_paths(shape.paths, *shape.grid)]


class _Track:
    """A path for implementations that cannot follow one: copies in its order, and back."""

    def __init__(self, order, length: int) -> None:
        self.length, self.order = length, order.clamp(min=0)
        self.padding = (order < 0)[:, None] if (order < 0).any() else None
        self.kept = (order >= 0).nonzero()[:, 0]
        self.whole = self.padding is None and len(order) == length

    def take(self, u, delta, B, C) -> list:
        """Return each (B, T, ..) of (B, L, ..). Padding steps have zeros, delta what softplus makes of zero."""
        found = [x[:, self.order] for x in (u, delta, B, C)]
        if self.padding is None:
            return found
        fills = (0.0, math.log(2.0), 0.0, 0.0)
        return [x.masked_fill(self.padding, fill) for x, fill in zip(found, fills, strict=True)]

    def put(self, y):
        """Return (B, L, D) of (B, T, D)."""
        if self.whole:
            return y.new_empty(y.shape).index_copy(1, self.order, y)
        return y.new_zeros(y.shape[0], self.length, y.shape[2]).index_copy(1, self.order[self.kept], y[:, self.kept])


def implementation(name: str, shape: Shape, device: str) -> Callable:
    """Return the function from the inputs to the output."""
    import torch
    import torch.nn.functional as F

    index = orders(shape, device)

    def ours(u, delta, A, B, C):
        from mmvim.ops import scan_paths, selective_scan_paths

        paths = shape.paths if shape.grid is None else scan_paths(shape.paths, *shape.grid, device=u.device)
        y = selective_scan_paths(
            u.transpose(-1, -2),
            delta.transpose(-1, -2),
            A,
            B.transpose(-1, -2),
            C.transpose(-1, -2),
            delta_softplus=True,
            paths=paths,
            backend=name.split(':')[1],
            chain=shape.chain,
            combine='stack' if shape.chain else 'sum',
        )
        return y.transpose(-1, -2)

    # What depends on the shape alone is found before the clock runs, as it is for ours.
    tracks = [_Track(order, shape.length) for order in index]
    chain = _Track(torch.cat(index), shape.length)
    straight = [name in ('forward', 'row') for name in shape.paths]

    def permuted(scan):
        def run(u, delta, A, B, C):
            total, delta = 0, F.softplus(delta)  # once, where the paths share it
            for k, track in enumerate(tracks):
                parts = [x if x.dim() == 3 else x[:, k] for x in (u, delta, B, C)]
                if not straight[k]:
                    parts = track.take(*parts)
                y = scan(parts[0], parts[1], A[k], *parts[2:])
                total = total + (y if straight[k] else track.put(y))
            return total

        def run_chain(u, delta, A, B, C):
            u, delta, B, C = chain.take(u, F.softplus(delta), B, C)
            y = scan(u, delta, A, B, C).split([len(order) for order in index], 1)
            return torch.stack([track.put(part) for track, part in zip(tracks, y, strict=True)], 1)

        return run_chain if shape.chain else run

    def pscan(u, delta, A, B, C):
        from mambapy.pscan import pscan as parallel

        states = parallel(torch.exp(delta.unsqueeze(-1) * A), (delta * u).unsqueeze(-1) * B.unsqueeze(2))
        return (states @ C.unsqueeze(-1)).squeeze(-1)

    def loop(u, delta, A, B, C):
        a, b = torch.exp(delta.unsqueeze(-1) * A), (delta * u).unsqueeze(-1) * B.unsqueeze(2)
        h, ys = u.new_zeros(u.shape[0], u.shape[2], A.shape[1]), []
        for t in range(u.shape[1]):
            h = a[:, t] * h + b[:, t]
            ys.append((h @ C[:, t].unsqueeze(-1)).squeeze(-1))
        return torch.stack(ys, dim=1)

    if name in ('exp', 'softplus'):
        count = shape.elements + (2 * shape.elements // shape.d_state if name == 'softplus' else 0)
        block = torch.randn(min(1 << 15, count), device=device)
        out = torch.empty_like(block)

        def exponentials(**_):
            for _ in range(-(-count // block.numel())):
                torch.exp(block, out=out)
            return out

        return exponentials
    if name == 'bytes':
        outputs = math.prod(shape.output)

        def copy(**inputs):
            # Half of the bytes that move are read, half are written.
            source = torch.empty((sum(x.numel() for x in inputs.values()) + outputs) // 2, device=device).fill_(1.0)
            target = torch.empty_like(source).fill_(1.0)
            start = time.perf_counter()
            target.copy_(source)
            return time.perf_counter() - start

        return copy
    return {'pscan': permuted(pscan), 'loop': permuted(loop)}.get(name, ours)
