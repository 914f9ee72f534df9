"""The two mixers of Vision-RWKV (Duan et al., https://arxiv.org/abs/2403.02308, Sec. 3).

Written from the paper and from recorded outputs, with names, sizes and initial values looked up in the authors' code.
The parameters have the names of the published checkpoints.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvim.models.layers.q_shift import shift_and_mix
from mmvim.models.layers.ssm_params import mark_no_weight_decay
from mmvim.ops import bi_wkv
from mmvim.registry import MODELS


def _shares(embed_dims: int, power: float) -> Tensor:
    """Return ``(c / embed_dims) ** power`` for each channel c."""
    return (torch.arange(embed_dims, dtype=torch.float32) / embed_dims) ** power


def _mix(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values[None, None])  # (C,) -> (1, 1, C), the shape in the published files


@MODELS.register_module()
class SpatialMix(nn.Module):
    """Mix the cells of a map by a bidirectional average, whose weights decay with the distance along the raster.

    Keys, values and a gate are made of each cell mixed with its four neighbours
    (:func:`mmvim.models.layers.q_shift.shift_and_mix`); the average is :func:`mmvim.ops.bi_wkv`, with decay and bonus
    divided by the number of tokens.

    Args:
        embed_dims: Channels.
        index: Of the block among ``depth``, on which the initial values depend. Defaults to 0.
        depth: Blocks. Defaults to 1.
        key_norm: Normalise the average by a LayerNorm, as Vision-RWKV-L does (the published name is that of the key).
            Defaults to False.
        boundary: 'exact', the paper's formula, or 'published', what the authors' CUDA kernel computes instead; see
            :func:`mmvim.ops.bi_wkv`. Defaults to 'exact'.
        scan_backend: Backend of the average, see :func:`mmvim.ops.bi_wkv`. Defaults to None, the fastest there is.

    Raises:
        ValueError: If ``boundary`` is neither of the two.

    Examples:
        >>> import torch
        >>> SpatialMix(embed_dims=8)(torch.randn(2, 15, 8), (3, 5)).shape
        torch.Size([2, 15, 8])
    """

    scan_operator: ClassVar[str] = 'mmvim::bi_wkv'  # what a count of FLOPs must have found

    def __init__(
        self,
        embed_dims: int,
        index: int = 0,
        depth: int = 1,
        key_norm: bool = False,
        boundary: str = 'exact',
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        if boundary not in ('exact', 'published'):
            raise ValueError(f"boundary={boundary!r} must be 'exact' or 'published'")
        self.boundary, self.scan_backend = boundary, scan_backend
        late, early = index / max(depth - 1, 1), 1 - index / depth  # 0 to 1, and 1 to almost 0
        channels = torch.arange(embed_dims, dtype=torch.float32)
        speeds = -5 + 8 * (channels / max(embed_dims - 1, 1)) ** (0.7 + 1.3 * late)
        self.spatial_decay = mark_no_weight_decay(nn.Parameter(speeds))
        first = math.log(0.3) + 0.5 * ((channels + 1) % 3 - 1)
        self.spatial_first = mark_no_weight_decay(nn.Parameter(first))
        self.spatial_mix_k = _mix(_shares(embed_dims, early))
        self.spatial_mix_v = _mix(_shares(embed_dims, early) + 0.3 * late)
        self.spatial_mix_r = _mix(_shares(embed_dims, 0.5 * early))
        self.key = nn.Linear(embed_dims, embed_dims, bias=False)
        self.value = nn.Linear(embed_dims, embed_dims, bias=False)
        self.receptance = nn.Linear(embed_dims, embed_dims, bias=False)
        self.key_norm = nn.LayerNorm(embed_dims) if key_norm else None
        self.output = nn.Linear(embed_dims, embed_dims, bias=False)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mix tokens (B, H * W, C) of a grid (H, W); same shape out."""
        mixes = (mix.flatten() for mix in (self.spatial_mix_k, self.spatial_mix_v, self.spatial_mix_r))
        of_key, of_value, of_gate = shift_and_mix(x, grid, *mixes)
        wide = torch.promote_types(self.spatial_decay.dtype, torch.float32)
        y = bi_wkv(
            self.spatial_decay.to(wide) / x.shape[1],
            self.spatial_first.to(wide) / x.shape[1],
            self.key(of_key),
            self.value(of_value),
            boundary=self.boundary,
            backend=self.scan_backend,
        )
        if self.key_norm is not None:
            y = self.key_norm(y)
        return self.output(torch.sigmoid(self.receptance(of_gate)) * y)


@MODELS.register_module()
class ChannelMix(nn.Module):
    """Mix the channels of each cell, and those of its neighbours: a gated perceptron with squared ReLU.

    Args:
        embed_dims: Channels.
        index: Of the block among ``depth``, on which the initial values depend. Defaults to 0.
        depth: Blocks. Defaults to 1.
        hidden_rate: Hidden channels over ``embed_dims``. Defaults to 4.
        key_norm: Normalise the hidden channels by a LayerNorm, as Vision-RWKV-L does. Defaults to False.

    Examples:
        >>> import torch
        >>> ChannelMix(embed_dims=8)(torch.randn(2, 15, 8), (3, 5)).shape
        torch.Size([2, 15, 8])
    """

    def __init__(
        self, embed_dims: int, index: int = 0, depth: int = 1, hidden_rate: float = 4, key_norm: bool = False
    ) -> None:
        super().__init__()
        hidden, early = int(hidden_rate * embed_dims), 1 - index / depth
        self.spatial_mix_k = _mix(_shares(embed_dims, early))
        self.spatial_mix_r = _mix(_shares(embed_dims, early))
        self.key = nn.Linear(embed_dims, hidden, bias=False)
        self.key_norm = nn.LayerNorm(hidden) if key_norm else None
        self.receptance = nn.Linear(embed_dims, embed_dims, bias=False)
        self.value = nn.Linear(hidden, embed_dims, bias=False)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mix tokens (B, H * W, C) of a grid (H, W); same shape out."""
        of_key, of_gate = shift_and_mix(x, grid, self.spatial_mix_k.flatten(), self.spatial_mix_r.flatten())
        hidden = F.relu(self.key(of_key)).square()
        if self.key_norm is not None:
            hidden = self.key_norm(hidden)
        return torch.sigmoid(self.receptance(of_gate)) * self.value(hidden)
