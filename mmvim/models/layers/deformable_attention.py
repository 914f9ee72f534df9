"""Attention that samples maps of several resolutions at a few points beside each query.

'Deformable DETR: Deformable Transformers for End-to-End Object Detection', Zhu et al., ICLR 2021,
https://arxiv.org/abs/2010.04159, Sec. 4.1. The parameters have the names of mmcv's ``MultiScaleDeformableAttention``,
whose module is not used: it adds the query to its output and drops parts of it, and rounds the sampling points to half
precision under autocast.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvim.ops.define import without_autocast


def cell_centres(shapes: Sequence[tuple[int, int]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the centres of the cells of maps as (x, y), in units of their map.

    Args:
        shapes: (height, width) of each map.
        dtype: Of the result.
        device: Of the result.

    Returns:
        (1, number of cells, 1, 2), each map in raster order, one map after the other.

    Examples:
        >>> cell_centres([(1, 2), (1, 1)], torch.float32, torch.device('cpu')).reshape(3, 2).tolist()
        [[0.25, 0.5], [0.75, 0.5], [0.5, 0.5]]
    """
    centres = []
    for height, width in shapes:
        y, x = ((torch.arange(side, device=device).to(dtype) + 0.5) / side for side in (height, width))
        # (height, width, 2) -> (height * width, 2)
        centres.append(torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1).flatten(0, 1))
    return torch.cat(centres)[None, :, None]


def sample_maps(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Sample maps bilinearly, zeros outside of them, and add the samples up with weights, in plain PyTorch.

    Args:
        value: The maps (B, cells of all maps, M, D), in raster order, one map after the other, for M heads.
        shapes: (height, width) of each of the L maps.
        locations: Where to sample, (B, Q, M, L, P, 2), as (x, y) in units of the map: its corners are (0, 0), (1, 1).
        weights: Of the samples, (B, Q, M, L, P).

    Returns:
        Sums over maps and points, (B, Q, M * D), head by head.

    Examples:
        >>> value = torch.arange(6.0).reshape(1, 6, 1, 1)
        >>> centre = torch.full((1, 1, 1, 1, 1, 2), 0.5)
        >>> sample_maps(value, [(2, 3)], centre, torch.ones(1, 1, 1, 1, 1)).item()  # between 1 and 4
        2.5
    """
    batch, heads = value.shape[0], value.shape[2]
    levels = value.split([height * width for height, width in shapes], dim=1)
    total = None
    for level, (maps, shape) in enumerate(zip(levels, shapes, strict=True)):
        maps = maps.flatten(2).transpose(1, 2)  # (B, h * w, M, D) -> (B, M * D, h * w)
        maps = maps.reshape(batch * heads, -1, *shape)  # (B * M, D, h, w)
        points = 2 * locations[:, :, :, level] - 1  # (B, Q, M, P, 2)
        points = points.transpose(1, 2).flatten(0, 1)  # (B * M, Q, P, 2)
        samples = F.grid_sample(maps, points, align_corners=False)  # (B * M, D, Q, P)
        shares = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]  # (B * M, 1, Q, P)
        part = (samples * shares).sum(-1)  # (B * M, D, Q)
        total = part if total is None else total + part
    assert total is not None
    return total.reshape(batch, -1, total.shape[-1]).transpose(1, 2)  # (B, M * D, Q) -> (B, Q, M * D)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention.

    Each query is looked up in every map at ``num_points`` points near its reference point; the offsets of the points,
    in cells of the map, and the shares of their values are linear in the query. Points and sampling are computed in
    float32 or wider, whatever autocast does. On CUDA devices mmcv's operator samples if mmcv was compiled with it, else
    PyTorch's ``grid_sample`` does, which needs no compiled operator.

    Args:
        embed_dims: Channels C of queries and features.
        num_heads: Heads M.
        num_levels: Maps L.
        num_points: Points P in each map. Defaults to 4.
        value_ratio: Channels of the values over ``embed_dims``. Defaults to 1.

    Raises:
        ValueError: If the heads do not divide the channels of the values.

    Examples:
        >>> attention = DeformableAttention(8, num_heads=2, num_levels=2)
        >>> shapes = [(4, 6), (2, 3)]
        >>> reference = cell_centres([(2, 2)], torch.float32, torch.device('cpu'))
        >>> attention(torch.randn(1, 4, 8), reference, torch.randn(1, 30, 8), shapes).shape
        torch.Size([1, 4, 8])
    """

    def __init__(
        self, embed_dims: int, num_heads: int, num_levels: int, num_points: int = 4, value_ratio: float = 1.0
    ) -> None:
        super().__init__()
        inner = int(embed_dims * value_ratio)
        if num_heads < 1 or inner < num_heads or inner % num_heads:
            raise ValueError(
                f'num_heads={num_heads} must divide the {inner} channels of the values '
                f'(embed_dims={embed_dims} x value_ratio={value_ratio})'
            )
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        points = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dims, 2 * points)
        self.attention_weights = nn.Linear(embed_dims, points)
        self.value_proj = nn.Linear(embed_dims, inner)
        self.output_proj = nn.Linear(inner, embed_dims)
        self._init_parameters()

    def _init_parameters(self) -> None:
        """Begin with equal shares, and with points on a ray for each head, one cell further out each."""
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(layer.bias)
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        rays = torch.stack((angles.cos(), angles.sin()), dim=-1)  # (M, 2)
        rays = rays / rays.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = rays[:, None, None] * steps[:, None]  # (M, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).reshape(-1))

    def forward(self, query: Tensor, reference: Tensor, feature: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Look queries up in maps.

        Args:
            query: (B, Q, C).
            reference: Points of the queries as (x, y) in units of a map, (1 or B, Q, 1 or L, 2).
            feature: The L maps, (B, cells of all maps, C), in raster order, one map after the other.
            shapes: (height, width) of each map.

        Returns:
            (B, Q, C), without the query.
        """
        value = self.value_proj(feature)
        offsets, weights = self.sampling_offsets(query), self.attention_weights(query)
        dtype = torch.promote_types(value.dtype, torch.float32)
        with without_autocast(value):
            # (B, Q, M * L * P) -> (B, Q, M, L * P): one softmax over all maps
            weights = weights.to(dtype).unflatten(2, (self.num_heads, -1)).softmax(dim=-1)
            weights = weights.unflatten(3, (self.num_levels, self.num_points))  # (B, Q, M, L, P)
            offsets = offsets.to(dtype).unflatten(2, (*weights.shape[2:], 2))  # (B, Q, M, L, P, 2)
            sizes = [torch.full((), side, dtype=dtype, device=value.device) for h, w in shapes for side in (w, h)]
            cells = torch.stack(sizes).reshape(-1, 1, 2)  # (L, 1, 2)
            locations = reference.to(dtype)[:, :, None, :, None] + offsets / cells
            heads = value.to(dtype).unflatten(2, (self.num_heads, -1))  # (B, S, M, D)
            sampled = _sampler(heads)(heads, shapes, locations, weights)
        return self.output_proj(sampled.to(value.dtype))


def _sampler(value: Tensor) -> Callable[..., Tensor]:
    """Return mmcv's operator where it can serve, else PyTorch's.

    What watches or replaces PyTorch's operators (a compiler, an exporter, a count of FLOPs, fake tensors, a transform
    of functions) cannot see mmcv's; and mmcv's adds gradients up in any order, without a word, also where deterministic
    algorithms are asked for.
    """
    if (
        not value.is_cuda
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or torch.are_deterministic_algorithms_enabled()
    ):
        return sample_maps
    return _sample_with_mmcv if _mmcv_runs(value.device) else sample_maps


def _sample_with_mmcv(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """See :func:`sample_maps`."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    sides = torch.tensor(shapes, device=value.device)
    cells = sides.prod(1)
    starts = cells.cumsum(0) - cells
    # It takes a batch in equal parts.
    part = math.gcd(len(value), 64) if len(value) > 64 else len(value)
    return MultiScaleDeformableAttnFunction.apply(
        value.contiguous(), sides, starts, locations.contiguous(), weights.contiguous(), part
    )


@functools.cache
def _mmcv_runs(device: torch.device) -> bool:
    """Try mmcv's operator once on a device; if it fails, say why PyTorch's serves."""
    value = torch.ones(1, 4, 1, 4, device=device, requires_grad=True)
    locations = torch.full((1, 1, 1, 1, 1, 2), 0.5, device=device)
    try:
        with torch.enable_grad():
            sampled = _sample_with_mmcv(value, [(2, 2)], locations, torch.ones(1, 1, 1, 1, 1, device=device))
            sampled.sum().backward()
    except Exception as error:  # not compiled, compiled without CUDA or for other GPUs, or with another PyTorch
        warnings.warn(
            f"mmcv's multi-scale deformable attention does not run on {device} ({type(error).__name__}: {error}); "
            "PyTorch's grid_sample serves, with the same results; for mmcv's, install it compiled with CUDA operators",
            stacklevel=2,
        )
        return False
    return True
