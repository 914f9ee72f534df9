"""LocalMamba's scans: directions out of rows, columns and local windows, weighted by what the whole map says.

'LocalMamba: Visual State Space Model with Windowed Selective Scan', Huang et al., https://arxiv.org/abs/2403.09338,
Sec. 4. Written from the paper and from recorded outputs of the authors' models; the parameters have the names of their
published checkpoints.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvim.models.layers.channel_attention import ChannelGate
from mmvim.models.layers.derived_weights import DerivedWeights
from mmvim.models.layers.plain_layers import dtype_of, is_plain
from mmvim.models.layers.selective_scan_2d import SelectiveScan2D
from mmvim.models.layers.ssm_params import init_a_log, init_dt_proj, init_skip, resolve_dt_rank
from mmvim.ops import ScanPath, selective_scan_paths
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.scan_paths import scan_paths
from mmvim.registry import MODELS

# The authors' names of directions; any other is the name of a scan order.
DIRECTIONS = {'h': 'row', 'v': 'col', 'w2': 'window2_padded', 'w7': 'window7_padded'}


def direction_paths(directions: Sequence[str]) -> tuple[str, ...]:
    """Return the scan orders that LocalMamba's directions name: 'h', 'v', 'w2', 'w7', and each with '_flip'.

    Args:
        directions: These names, or names of scan orders (see :func:`mmvim.ops.scan_paths.scan_paths`).

    Raises:
        ValueError: If there is none, or a name is unknown.

    Examples:
        >>> direction_paths(('h', 'v_flip', 'w7', 'zigzag_row'))
        ('row', 'col_reverse', 'window7_padded', 'zigzag_row')
    """
    if not directions or isinstance(directions, str):
        raise ValueError(f'directions={directions!r} must be a sequence of at least one name, such as h, v_flip or w7')
    names = []
    for name in directions:
        stem = name.removesuffix('_flip')
        known = DIRECTIONS.get(stem)
        names.append(name if known is None else known + '_reverse' * (stem != name))
    scan_paths(names, 1, 1)  # raises for an unknown name
    return tuple(names)


class DirectionAttention(ChannelGate):
    """Weigh the channels of each direction's output by what its mean says, and sum the directions.

    One set of weights serves all directions; the arguments are those of :class:`ChannelGate`.

    Examples:
        >>> import torch
        >>> DirectionAttention(16)(torch.randn(2, 4, 16, 9)).shape
        torch.Size([2, 16, 9])
    """

    def forward(self, y: Tensor) -> Tensor:
        """Map (B, directions, C, L) to (B, C, L)."""
        weights = self.weights(y.mT, over=(2,)).mT  # (B, directions, C, 1)
        return (y * weights).sum(1)


@MODELS.register_module()
class LocalScan2D(SelectiveScan2D):
    """:class:`SelectiveScan2D` along LocalMamba's directions, whose outputs a channel attention weighs before the sum.

    Windows that the map does not fill are padded after the convolution: there the scan reads zeros, and its state
    decays.

    Args:
        embed_dims: Channels of the map.
        directions: See :func:`direction_paths`. Defaults to ``('h', 'h_flip', 'w7', 'w7_flip')``.
        d_state: States of a channel. Defaults to 16.
        expand: Inner channels over ``embed_dims``. Defaults to 2.
        scan_backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.

    Raises:
        ValueError: If a direction is unknown.

    Examples:
        >>> import torch
        >>> layer = LocalScan2D(embed_dims=8, directions=('h', 'v_flip', 'w2'), d_state=4)
        >>> layer(torch.randn(2, 8, 5, 9)).shape
        torch.Size([2, 8, 5, 9])
    """

    combine: ClassVar[str] = 'stack'

    def __init__(
        self,
        embed_dims: int,
        directions: Sequence[str] = ('h', 'h_flip', 'w7', 'w7_flip'),
        d_state: int = 16,
        expand: float = 2,
        scan_backend: str | None = None,
    ) -> None:
        super().__init__(
            embed_dims, direction_paths(directions), d_state=d_state, expand=expand, scan_backend=scan_backend
        )
        self.multi_scan = nn.ModuleDict({'attn': DirectionAttention(self.d_inner)})

    def join(self, y: Tensor) -> Tensor:
        """Map (B, directions, d_inner, L) to (B, d_inner, L)."""
        return self.multi_scan['attn'](y)


@MODELS.register_module()
class LocalVimMixer(DerivedWeights):
    """Mix the tokens of a grid along LocalMamba's directions, each with a convolution and a scan of its own.

    Every direction is a sequence: a causal convolution runs along it, the scan follows, and the gate applies to what it
    makes. Windows that the grid does not fill are padded with zeros before the convolution, so that padding steps are
    not zero for the scan. The outputs are put back to the grid, weighted by a channel attention, and summed.

    Args:
        embed_dims: Channels of a token.
        directions: See :func:`direction_paths`. Defaults to ``('h', 'h_flip', 'w7', 'w7_flip')``.
        d_state: States of a channel. Defaults to 16.
        d_conv: Taps of the convolutions. Defaults to 4.
        expand: Inner channels over ``embed_dims``. Defaults to 2.
        dt_rank: Rank of the projections to delta. Defaults to 'auto', ``ceil(embed_dims / 16)``.
        scan_backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.

    Raises:
        ValueError: If a direction is unknown, or ``dt_rank`` is neither a positive int nor 'auto'.

    Examples:
        >>> import torch
        >>> mixer = LocalVimMixer(embed_dims=8, directions=('h', 'w2_flip'), d_state=4)
        >>> mixer(torch.randn(2, 15, 8), (3, 5)).shape
        torch.Size([2, 15, 8])
    """

    scan_operator: ClassVar[str] = 'mmvim::selective_scan'  # what a count of FLOPs must have found

    def __init__(
        self,
        embed_dims: int,
        directions: Sequence[str] = ('h', 'h_flip', 'w7', 'w7_flip'),
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = 'auto',
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        self.paths = direction_paths(directions)
        self.d_inner, self.d_state, self.d_conv = int(expand * embed_dims), d_state, d_conv
        self.dt_rank, self.scan_backend = resolve_dt_rank(dt_rank, embed_dims), scan_backend
        self.in_proj = nn.Linear(embed_dims, 2 * self.d_inner, bias=False)
        for k in range(len(self.paths)):
            setattr(self, f'conv1d_{k}', nn.Conv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner))
            setattr(self, f'x_proj_{k}', nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False))
            setattr(self, f'dt_proj_{k}', init_dt_proj(self.dt_rank, self.d_inner))
            setattr(self, f'A_log_{k}', init_a_log(self.d_inner, d_state))
            setattr(self, f'D_{k}', init_skip(self.d_inner))
        self.attn = DirectionAttention(self.d_inner)
        self.out_proj = nn.Linear(self.d_inner, embed_dims, bias=False)

    def derive(self) -> dict[str, Tensor]:
        """See the base class."""
        logs = torch.stack([getattr(self, f'A_log_{k}') for k in range(len(self.paths))])
        return {'A': -torch.exp(logs.float())}  # (K, d_inner, d_state)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mix tokens.

        Args:
            x: (B, h * w, embed_dims), in raster order.
            grid: (h, w).

        Returns:
            (B, h * w, embed_dims), in raster order.
        """
        x, z = self.in_proj(x).chunk(2, dim=-1)  # each (B, L, d_inner)
        x, z = x.mT, z.mT
        paths = scan_paths(self.paths, *grid, device=x.device)
        decays = self.derived()['A']
        y = torch.stack(
            [self._scan(x, z, decays[k], path, k).mT for k, path in enumerate(paths)], dim=1
        ).mT  # (B, K, d_inner, L)
        y = self.attn(y).mT
        return self.out_proj(y.to(dtype_of(self.out_proj, x.dtype)))

    def _filter(self, x: Tensor, k: int) -> Tensor:
        """Run convolution k and SiLU along a sequence (B, d_inner, T)."""
        layer, past = getattr(self, f'conv1d_{k}'), self.d_conv - 1
        if is_plain(nn.Conv1d, layer):
            weight, bias = layer.weight[:, 0][None], None if layer.bias is None else layer.bias[None]
            return conv1d_silu(x.mT, weight, bias, (past,), self.scan_backend)[:, 0].mT
        return F.silu(layer(F.pad(x, (past, 0))))

    def _scan(self, x: Tensor, z: Tensor, A: Tensor, path: ScanPath, k: int) -> Tensor:
        """Convolve and scan along one direction: (B, d_inner, L) in raster order, as x and z are."""
        u = self._filter(path.read(x), k)  # (B, d_inner, T), in the order of the steps
        projected = getattr(self, f'x_proj_{k}')(u.mT)
        dt, b, c = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        layer = getattr(self, f'dt_proj_{k}')
        bias = None
        if is_plain(nn.Linear, layer) and layer.bias is not None:
            delta, bias = F.linear(dt, layer.weight), layer.bias.float()
        else:
            delta = layer(dt)
        return selective_scan_paths(
            u,
            delta.mT,
            A,
            b.mT,
            c.mT,
            getattr(self, f'D_{k}').float(),
            z=z,
            delta_bias=bias,
            delta_softplus=True,
            paths=[path],
            follow=(),
            backend=self.scan_backend,
        )
