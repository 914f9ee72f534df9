"""Scans that the Triton kernels are tried on: small ones for the interpreter, and the same and more for a GPU."""

from dataclasses import dataclass

import torch
from helpers import randn, worst_errors

from mmvim.ops import scan_paths, selective_scan, selective_scan_paths

ALL = ('u', 'delta', 'B', 'C')
NAMES = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'initial_state')


@dataclass(frozen=True)
class Case:
    """One scan; ``paths`` None is :func:`selective_scan`, a tuple of names or 'random' several paths over ``grid``.

    ``length`` is the number of positions. Tensors that do not follow partial paths have a column for each step.
    """

    name: str
    batch: int
    dim: int
    length: int
    d_state: int
    groups: int = 1
    optional: bool = True
    softplus: bool = True
    reverse: bool = False
    paths: tuple[str, ...] | None = None
    grid: tuple[int, int] | None = None
    follow: tuple[str, ...] = ALL
    combine: str = 'sum'
    shared: tuple[str, ...] = ()
    last_state: bool = True

    def inputs(self):
        """Leaves in float64: u, delta, A_log, B, C, D, z, delta_bias, initial state."""
        b, d, length, n = self.batch, self.dim, self.length, self.d_state
        num = len(self.paths) if self.paths else 0
        steps = max(path.steps for path in scan_paths(self.paths, *self.grid)) if self.grid else length
        columns = {name: length if name in self.follow else steps for name in ALL}

        def k(name):
            return (num,) if num and name not in self.shared else ()

        leaves = [
            randn(b, *k('u'), columns['u'], d).mT,
            randn(b, *k('delta'), columns['delta'], d, seed=1).mT,
            randn(*k('A'), d, n, seed=2) * 0.3,
        ]
        leaves[1] = leaves[1] if self.softplus else leaves[1].abs()
        shape = (b, n) if 'B' in self.shared else (b, *([num] if num else []), self.groups, n)
        leaves += [randn(*shape, columns['B'], seed=3), randn(*shape, columns['C'], seed=4)]
        if not self.optional:
            return [*leaves, None, None, None, None]
        state = None if num else randn(b, d, n, seed=8)
        return [
            *leaves,
            randn(*k('D'), d, seed=5),
            randn(b, length, d, seed=6).transpose(1, 2),
            randn(*k('bias'), d, seed=7) * (0.5 if self.softplus else 0),
            state,
        ]

    def run(self, leaves, backend, **more):
        """Output, or output and last state."""
        u, delta, A, B, C, D, z, bias, state = leaves
        if self.paths is None:
            return selective_scan(
                u,
                delta,
                -A.exp(),
                B,
                C,
                D,
                z,
                bias,
                self.softplus,
                self.last_state,
                reverse=self.reverse,
                initial_state=state,
                backend=backend,
                **more,
            )
        if 'random' in self.paths:
            paths = [
                torch.randperm(self.length, generator=torch.Generator().manual_seed(i)).to(u.device)
                if name == 'random'
                else name
                for i, name in enumerate(self.paths)
            ]
        elif self.grid is None:
            paths = self.paths
        else:
            paths = scan_paths(self.paths, *self.grid, device=u.device)
        return selective_scan_paths(
            u,
            delta,
            -A.exp(),
            B,
            C,
            D,
            z,
            bias,
            self.softplus,
            paths=paths,
            follow=self.follow,
            combine=self.combine,
            backend=backend,
            **more,
        )


CROSS = ('row', 'col', 'row_reverse', 'col_reverse')
ATROUS = ('atrous2_1', 'atrous2_2', 'atrous2_3', 'atrous2_4')
WINDOWS = ('window2_padded', 'window2_padded_reverse')
CASES = (
    Case('one step', 2, 6, 1, 4),
    Case('one state, plain, reverse', 3, 5, 7, 1, optional=False, reverse=True),
    Case('two groups across a chunk', 1, 40, 19, 8, groups=2),
    Case('channels of two blocks', 1, 70, 5, 2, reverse=True, last_state=False),
    Case('no softplus', 1, 6, 9, 3, softplus=False, groups=3),
    Case('17 states', 1, 4, 5, 17, reverse=True),
    Case('24 states, both ways', 1, 3, 5, 24, paths=('forward', 'reverse'), shared=('u',)),
    Case('33 states, two groups, reverse', 2, 4, 3, 33, groups=2, reverse=True),
    Case('48 states along a map', 1, 2, 3, 48, paths=('random',), combine='stack'),
    Case('64 states', 1, 3, 2, 64, optional=False),
    Case('Vim', 2, 6, 13, 3, paths=('forward', 'reverse'), shared=('delta', 'bias')),
    Case(
        'Vim, everything shared', 1, 5, 6, 2, paths=('forward', 'reverse'), shared=('u', 'delta', 'A', 'B', 'D', 'bias')
    ),
    Case('cross scan', 1, 6, 12, 1, paths=CROSS, grid=(3, 4), shared=('u',)),
    Case('cross scan, stacked, gated', 1, 4, 6, 2, paths=CROSS, grid=(2, 3), combine='stack', groups=2),
    Case('u alone follows', 1, 5, 7, 2, paths=('random',) * 2, follow=('u',), shared=('u',)),
    Case('u and B follow', 1, 4, 18, 2, paths=('random',) * 3, follow=('u', 'B'), shared=('B',)),
    Case('nine maps', 1, 2, 7, 2, paths=('random',) * 9, shared=('A',)),
    Case('16 paths, 15 maps', 1, 1, 3, 1, paths=('reverse', *('random',) * 15), combine='stack', optional=False),
    Case('11 paths, two maps', 1, 1, 3, 1, paths=(*('random',) * 2, *('reverse',) * 9), optional=False),
    # Whole blocks and tiles: kernels without masks.
    Case('32 channels, 8 steps', 2, 32, 8, 5, paths=('forward', 'reverse'), shared=('delta', 'bias')),
    Case('64 channels of a group along a map', 1, 128, 4, 2, groups=2, paths=('random',) * 2, follow=('u', 'C')),
    Case('32 channels, 18 states', 1, 32, 4, 18, reverse=True),
)
# Partial paths: gated sums, one path with its gate in the kernel, outputs stacked, tensors in the order of the steps.
PARTIAL = (
    Case('windows and rows', 1, 5, 6, 2, paths=('window2_padded_reverse', 'row'), grid=(2, 3)),
    Case('left out, 17 states', 1, 3, 3, 17, paths=('atrous2_1', 'atrous2_4'), grid=(1, 3), shared=('u', 'A', 'bias')),
    Case('left out, stacked, gated', 1, 4, 9, 1, paths=ATROUS, grid=(3, 3), combine='stack', shared=('B',)),
    Case('one with a gate', 2, 66, 4, 2, paths=('atrous2_4',), grid=(2, 2), groups=2),
    Case('in the order of the steps', 1, 4, 3, 2, paths=WINDOWS, grid=(1, 3), follow=(), shared=('delta',)),
    Case('windows, 32 channels', 1, 32, 4, 2, paths=WINDOWS, grid=(2, 2)),
    Case('windows of u alone', 1, 4, 3, 3, paths=WINDOWS, grid=(3, 1), follow=('u',), combine='stack'),
    Case('windows of u and B', 1, 4, 3, 18, paths=WINDOWS[:1], grid=(3, 1), follow=('u', 'B'), optional=False),
)
LONG = (
    Case('segments', 1, 6, 50, 2),
    Case('ten segments', 1, 2, 150, 1, reverse=True),
    Case('segments, 32 channels', 1, 32, 48, 3, paths=('forward', 'reverse')),
    Case('segments, 18 states', 1, 3, 34, 18, reverse=True),
    Case('segments, maps, stack', 1, 5, 35, 3, paths=('random',) * 2, combine='stack'),
    Case('segments, nine maps', 1, 1, 33, 1, paths=('random',) * 9, follow=('u', 'B'), optional=False),
    Case('segments, windows', 1, 2, 15, 1, paths=('window4_padded', 'window4_padded_reverse'), grid=(3, 5)),
    Case('segments, steps, 18 states', 1, 2, 9, 18, paths=('window5_padded',), grid=(3, 3), follow=()),
)


def errors_of(case, dtype, device='cpu', backend='triton', definition='reference', **more):
    """Return the largest difference of every result from the definition in float64, relative to the largest value.

    If the loop of the definition would take too long, for a large L, ``definition`` is 'torch', tested against it.

    Results are the outputs and the gradient of each input, by name.
    """
    inputs = case.inputs()
    dtypes = [torch.float32 if name in ('A', 'D', 'delta_bias', 'initial_state') else dtype for name in NAMES]
    errors = worst_errors(
        lambda *leaves: case.run(leaves, backend, **more),
        lambda *leaves: case.run(leaves, definition),
        inputs,
        dtypes,
        device,
    )
    given = [name for name, x in zip(NAMES, inputs, strict=True) if x is not None]
    labels = [*(f'output {i}' for i in range(len(errors) - len(given))), *given]
    return dict(zip(labels, errors, strict=True))
