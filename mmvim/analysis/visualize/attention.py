r"""The selective scan as the matrix that it is, and as a map of where it writes.

The recurrence is linear in u. Unrolled, step t of a path returns, for each channel d,

    y[t, d] = sum over s <= t of M[t, s, d] * u[s, d]
    M[t, s, d] = sum over n of C[t, n] * exp(A[d, n] * (delta[s+1, d] + .. + delta[t, d])) * delta[s, d] * B[s, n]

with D[d] added where s = t: M is what an attention map is to attention, and depends on the input as that does (Ali,
Zimerman and Wolf, The Hidden Attention of Mamba Models, https://arxiv.org/abs/2403.01590, Sec. 3). A gate z multiplies
row t by silu(z[t, d]). All of it is computed in float64 from what a recorded scan was given, and
:func:`reproduce` puts it back together: that this is the operator's output is what makes the pictures true.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.analysis.visualize.record import RecordedScan

_CHANNELS = 32  # of which matrices are held at once


@dataclass(frozen=True)
class _Path:
    """One path of one sequence, in the order of its steps, in float64.

    Attributes:
        order: Position of each step, (T,); -1 at padding steps.
        u, delta: (D, T); delta with its bias, after softplus.
        A: (D, N).
        B, C: (D, N, T), views where channels share them.
        D: (D,); zeros if there is none.
    """

    order: Tensor
    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor

    @property
    def time(self) -> Tensor:
        """The sum of delta up to and with each step, (D, T)."""
        return self.delta.cumsum(-1)


def _unroll(scan: RecordedScan, path: int, sequence: int) -> _Path:
    args, order = scan.args, scan.order(path)
    dim, states, steps = args.u.shape[2], args.A.shape[-1], order.numel()

    def own(x: Tensor, axis: int = 0) -> Tensor:
        return x.select(axis, path if x.shape[axis] > 1 else 0).double().cpu()

    def read(x: Tensor, follows: bool) -> Tensor:
        """(..., L) to (..., T); padding steps read zeros."""
        return F.pad(x, (0, 1)).index_select(-1, torch.where(order < 0, x.shape[-1], order)) if follows else x

    def projection(x: Tensor, follows: bool) -> Tensor:
        if x.dim() == 3:  # constant in time, (1, D, N)
            return x[0].double().cpu()[..., None].expand(dim, states, steps)
        x = read(own(x[sequence]), follows)  # (G, N, T)
        return x.repeat_interleave(dim // x.shape[0], 0) if x.shape[0] > 1 else x.expand(dim, states, steps)

    delta = read(own(args.delta[sequence]), args.follow[1])
    if args.delta_bias is not None:
        delta = delta + own(args.delta_bias)[:, None]
    return _Path(
        order,
        read(own(args.u[sequence]), args.follow[0]),
        F.softplus(delta) if args.delta_softplus else delta,
        own(args.A),
        projection(args.B, args.follow[2]),
        projection(args.C, args.follow[3]),
        torch.zeros(dim, dtype=torch.float64) if args.D is None else own(args.D),
    )


def _gate(scan: RecordedScan, sequence: int) -> Tensor | None:
    """Return silu(z), (D, L) in float64, or None without a gate."""
    return None if scan.args.z is None else F.silu(scan.args.z[sequence].double().cpu())


def _read_out(unrolled: _Path, readout: Tensor, end: int) -> Tensor:
    """Return what a readout (D, N) of the state after step ``end`` takes of each step's u, (D, T)."""
    time, steps = unrolled.time, unrolled.order.numel()
    past = torch.arange(steps) <= end
    waited = torch.where(past, time[:, end, None] - time, 0.0)  # (D, T)
    weights = torch.zeros_like(time)
    for n in range(unrolled.A.shape[1]):
        kept = torch.exp(unrolled.A[:, n, None] * waited)
        weights += readout[:, n, None] * kept * unrolled.B[:, n]
    return torch.where(past, weights * unrolled.delta, 0.0)


def _on_positions(values: Tensor, order: Tensor, length: int) -> Tensor:
    """Put values (D, T) of steps at their positions, (D, L); those of padding steps are left out."""
    out = values.new_zeros(values.shape[0], length + 1)
    return out.index_copy(1, torch.where(order < 0, length, order), values)[:, :-1]


def attention_row(scan: RecordedScan, path: int, position: int, sequence: int = 0) -> Tensor:
    """Return what each position contributes to one output of a path: a row of the scan's matrix.

    A scan that began in the last state of the one before it (MSVMamba's) has the contributions of that one added.

    Args:
        scan: A recorded scan.
        path: Number of the path, from 0.
        position: Of the output, in raster order, 0 to L - 1.
        sequence: Number of the sequence, from 0. Defaults to 0.

    Returns:
        float64 (D, L). Its product with u, summed over L, is the path's share of the output, gated if the scan is, up
        to what padding steps that read something contribute (LocalVim's). Zeros if the path does not visit the
        position.

    Raises:
        ValueError: If there is no such path, position or sequence.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.attention import attention_row
        >>> from mmvim.analysis.visualize.record import record_scans
        >>> from mmvim.models import SelectiveScan2D
        >>> (scan,) = record_scans(SelectiveScan2D(8, paths=('row', 'row_reverse')), torch.randn(1, 8, 3, 5))
        >>> forward, backward = (attention_row(scan, path, position=7) for path in (0, 1))
        >>> forward[0].nonzero().flatten().tolist(), backward[0].nonzero().flatten().tolist()
        ([0, 1, 2, 3, 4, 5, 6, 7], [7, 8, 9, 10, 11, 12, 13, 14])
    """
    args = scan.args
    for name, value, limit in (
        ('path', path, args.num_paths),
        ('position', position, args.length),
        ('sequence', sequence, args.u.shape[0]),
    ):
        if not 0 <= value < limit:
            raise ValueError(f'{name}={value} must lie in 0..{limit - 1}')
    unrolled = _unroll(scan, path, sequence)
    visits = (unrolled.order == position).nonzero()
    row = torch.zeros(args.u.shape[2], args.length, dtype=torch.float64)
    if not len(visits):
        return row
    end = int(visits[0])
    row = _influence(scan, path, sequence, unrolled, unrolled.C[..., end], end)
    row[:, position] += unrolled.D
    gate = _gate(scan, sequence)
    return row if gate is None else row * gate[:, position, None]


def _influence(scan: RecordedScan, path: int, sequence: int, unrolled: _Path, readout: Tensor, end: int) -> Tensor:
    """Return what a readout of the state takes of each position, of this scan and of those before it, (D, L)."""
    row = _on_positions(_read_out(unrolled, readout, end), unrolled.order, scan.args.length)
    if scan.previous is not None:
        before = _unroll(scan.previous, path, sequence)
        kept = readout * torch.exp(unrolled.A * unrolled.time[:, end, None])  # of the state that this scan began in
        row = row + _influence(scan.previous, path, sequence, before, kept, before.order.numel() - 1)
    return row


def _output_of_path(scan: RecordedScan, path: int, sequence: int) -> Tensor:
    """Multiply u by the whole matrix of a path, without the gate: (D, L)."""
    unrolled = _unroll(scan, path, sequence)
    steps = unrolled.order.numel()
    allowed = torch.ones(steps, steps, dtype=torch.bool).tril()
    outputs = []
    for channels in torch.arange(unrolled.u.shape[0]).split(_CHANNELS):
        time = unrolled.time[channels]
        waited = torch.where(allowed, time[:, :, None] - time[:, None, :], 0.0)  # (d, T, T)
        matrix = torch.zeros_like(waited)
        for n in range(unrolled.A.shape[1]):
            kept = torch.exp(unrolled.A[channels, n, None, None] * waited)
            matrix += unrolled.C[channels, n, :, None] * kept * unrolled.B[channels, n, None, :]
        matrix = torch.where(allowed, matrix * unrolled.delta[channels, None, :], 0.0)
        matrix += torch.diag_embed(unrolled.D[channels, None].expand(-1, steps))
        y = (matrix @ unrolled.u[channels, :, None])[..., 0]  # (d, T)
        if scan.args.initial_state is not None:
            start = scan.args.initial_state[sequence, path].double().cpu()[channels]  # (d, N)
            kept = torch.exp(unrolled.A[channels, :, None] * time[:, None, :])  # (d, N, T)
            y = y + (unrolled.C[channels] * kept * start[..., None]).sum(1)
        outputs.append(y)
    return _on_positions(torch.cat(outputs), unrolled.order, scan.args.length)


def reproduce(scan: RecordedScan) -> Tensor:
    """Compute a scan's output by its matrices, to be compared with what the operator returned.

    Takes time and memory by the square of the steps, as attention does.

    Args:
        scan: A recorded scan.

    Returns:
        float64, in the shape of ``scan.out``.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.attention import reproduce
        >>> from mmvim.analysis.visualize.record import record_scans
        >>> from mmvim.models import SelectiveScan2D
        >>> (scan,) = record_scans(SelectiveScan2D(8), torch.randn(1, 8, 3, 5))
        >>> torch.allclose(reproduce(scan), scan.out.double(), atol=1e-5)
        True
    """
    args = scan.args
    pictures = []
    for sequence in range(args.u.shape[0]):
        y = torch.stack([_output_of_path(scan, path, sequence) for path in range(args.num_paths)])  # (K, D, L)
        y = y if args.stack else y.sum(0)
        gate = _gate(scan, sequence)
        pictures.append(y if gate is None else y * gate)
    return torch.stack(pictures)


def attention_map(scan: RecordedScan, path: int, row: int, column: int) -> Tensor:
    """Return how much each cell contributes to one cell's output along a path.

    Args:
        scan: A recorded scan.
        path: Number of the path, from 0.
        row: Of the cell, on the scan's map, from 0.
        column: Of the cell.

    Returns:
        float64 (h, w), the mean over channels of the magnitudes of :func:`attention_row`; NaN outside of the cell's
        window if the map is cut into windows.

    Raises:
        ValueError: If the map has no such cell.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.attention import attention_map
        >>> from mmvim.analysis.visualize.record import record_scans
        >>> from mmvim.models import SelectiveScan2D
        >>> (scan,) = record_scans(SelectiveScan2D(8, paths=('col',)), torch.randn(1, 8, 3, 4))
        >>> (attention_map(scan, 0, row=1, column=2) > 0).int().tolist()
        [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0]]
    """
    sequence, token = scan.layout.find(row, column)
    return scan.layout.to_map(attention_row(scan, path, token, sequence).abs().mean(0), sequence)


def delta_map(scan: RecordedScan, path: int) -> Tensor:
    """Return the step size with which a path writes each cell into its state.

    A large delta forgets what came before and writes the cell; near 0 the cell is passed over (Gu and Dao,
    https://arxiv.org/abs/2312.00752, Sec. 3.5.3).

    Args:
        scan: A recorded scan.
        path: Number of the path, from 0.

    Returns:
        float64 (h, w): delta, with its bias and after softplus, in the mean over channels; NaN for cells that the path
        does not visit.

    Raises:
        ValueError: If there is no such path.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.attention import delta_map
        >>> from mmvim.analysis.visualize.record import record_scans
        >>> from mmvim.models import SelectiveScan2D
        >>> (scan,) = record_scans(SelectiveScan2D(8), torch.randn(1, 8, 3, 5))
        >>> delta_map(scan, 0).shape, bool((delta_map(scan, 0) > 0).all())
        (torch.Size([3, 5]), True)
    """
    if not 0 <= path < scan.args.num_paths:
        raise ValueError(f'path={path} must lie in 0..{scan.args.num_paths - 1}')
    sequences = []
    for sequence in range(scan.args.u.shape[0]):
        unrolled = _unroll(scan, path, sequence)
        values = torch.full((scan.args.length + 1,), torch.nan, dtype=torch.float64)
        values[unrolled.order] = unrolled.delta.mean(0)  # what padding steps have goes to the last entry
        sequences.append(values[:-1])
    return scan.layout.to_map(torch.stack(sequences))
