"""The mixer of MambaVision (Hatamizadeh and Kautz, https://arxiv.org/abs/2407.08083, Sec. 3.2, Eq. 4).

Written from the paper. The parameters have the names of the published checkpoints.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvim.models.layers.derived_weights import DerivedWeights
from mmvim.models.layers.plain_layers import call_with_bias, is_plain
from mmvim.models.layers.ssm_params import init_a_log, init_dt_proj, init_skip, resolve_dt_rank
from mmvim.ops import selective_scan
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.registry import MODELS


@MODELS.register_module()
class MambaVisionMixer(DerivedWeights):
    """Mix tokens through two halves of the channels: both go through a centred depthwise convolution, one is scanned.

    As in the published models, the bias of ``dt_proj`` enters delta twice, once in the layer and once in the scan. The
    published weights were trained that way, so it is kept.

    Args:
        embed_dims: Channels of a token.
        d_state: States of a channel. Defaults to 8.
        d_conv: Taps of the depthwise convolutions. Defaults to 3.
        expand: Inner channels (both halves) over ``embed_dims``. Defaults to 1.
        dt_rank: Rank of the projection to delta. Defaults to 'auto', ``ceil(embed_dims / 16)``.
        scan_backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.

    Raises:
        ValueError: If the inner channels are odd.

    Examples:
        >>> import torch
        >>> MambaVisionMixer(embed_dims=8)(torch.randn(2, 49, 8)).shape
        torch.Size([2, 49, 8])
    """

    scan_operator: ClassVar[str] = 'mmvim::selective_scan'  # what a count of FLOPs must have found

    def __init__(
        self,
        embed_dims: int,
        d_state: int = 8,
        d_conv: int = 3,
        expand: int = 1,
        dt_rank: int | str = 'auto',
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        d_inner = int(expand * embed_dims)
        if d_inner % 2:
            raise ValueError(f'expand * embed_dims = {d_inner} must be even: one half of it is scanned')
        self.d_half, self.d_state, self.d_conv = d_inner // 2, d_state, d_conv
        self.dt_rank = resolve_dt_rank(dt_rank, embed_dims)
        self.scan_backend = scan_backend

        self.in_proj = nn.Linear(embed_dims, d_inner, bias=False)
        self.x_proj = nn.Linear(self.d_half, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = init_dt_proj(self.dt_rank, self.d_half)
        self.A_log = init_a_log(self.d_half, d_state)
        self.D = init_skip(self.d_half)
        self.out_proj = nn.Linear(d_inner, embed_dims, bias=False)
        self.conv1d_x = nn.Conv1d(self.d_half, self.d_half, d_conv, groups=self.d_half, bias=False)
        self.conv1d_z = nn.Conv1d(self.d_half, self.d_half, d_conv, groups=self.d_half, bias=False)

    def derive(self) -> dict[str, Tensor]:
        """See the base class."""
        return {'A': -torch.exp(self.A_log.float())}  # (d_half, d_state)

    def _filter(self, x: Tensor, conv: nn.Conv1d) -> Tensor:
        """Run a convolution and SiLU on tokens (B, L, d_half)."""
        left = (self.d_conv - 1) // 2
        if is_plain(nn.Conv1d, conv):
            filters = conv.weight.transpose(0, 1)  # (d_half, 1, d_conv) -> (1, d_half, d_conv)
            x = conv1d_silu(x, filters, None, (left,), self.scan_backend)  # (B, 1, L, d_half)
            return x[:, 0]
        x = F.pad(x.transpose(1, 2), (left, self.d_conv - 1 - left))  # (B, L, d_half) -> (B, d_half, L + taps - 1)
        return F.silu(conv(x)).transpose(1, 2)  # (B, d_half, L) -> (B, L, d_half)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens (B, L, embed_dims); same shape and order out."""
        u, z = self.in_proj(x).chunk(2, dim=-1)  # each (B, L, d_half)
        u, z = self._filter(u, self.conv1d_x), self._filter(z, self.conv1d_z)
        dt, b, c = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta, bias = call_with_bias(self.dt_proj, dt)  # (B, L, d_half), (d_half,)
        y: Tensor = selective_scan(
            u.transpose(1, 2),  # (B, L, d_half) -> (B, d_half, L)
            delta.transpose(1, 2),
            self.derived()['A'],
            b.transpose(1, 2),  # (B, L, d_state) -> (B, d_state, L)
            c.transpose(1, 2),
            self.D.float(),
            delta_bias=bias.float(),
            delta_softplus=True,
            backend=self.scan_backend,
        )
        return self.out_proj(torch.cat([y.transpose(1, 2), z], dim=-1))  # y (B, d_half, L) -> (B, L, d_half)
