"""The parts of the ViT-Adapter: a pyramid of convolutions, and what exchanges features between it and a backbone.

'Vision Transformer Adapter for Dense Predictions', Chen et al., ICLR 2023, https://arxiv.org/abs/2205.08534, Sec. 3.
The parameters have the names of the published checkpoints. Tokens are (B, L, C); those of the pyramid are its maps of
strides 8, 16 and 32, one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmvim.models.layers.deformable_attention import DeformableAttention, cell_centres
from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.plain_layers import dtype_of
from mmvim.models.layers.plain_layout import PlainLayout
from mmvim.models.layers.recompute import recompute

_EPS = 1e-6


@dataclass(frozen=True)
class Geometry:
    """Where the tokens of one batch lie.

    Attributes:
        grid: (rows, columns) of the backbone's patches, of stride 16.
        maps: (rows, columns) of the pyramid's maps, of strides 8, 16 and 32.
        patch_points: Centres of the patches, (1, h * w, 1, 2).
        pyramid_points: Centres of the pyramid's cells, (1, number of cells, 1, 2).

    Examples:
        >>> geometry = Geometry.of((2, 3), torch.float32, torch.device('cpu'))
        >>> geometry.grid, geometry.maps, geometry.pyramid_points.shape
        ((4, 6), ((8, 12), (4, 6), (2, 3)), torch.Size([1, 126, 1, 2]))
    """

    grid: tuple[int, int]
    maps: tuple[tuple[int, int], ...]
    patch_points: Tensor
    pyramid_points: Tensor

    @classmethod
    def of(cls, cells: tuple[int, int], dtype: torch.dtype, device: torch.device) -> 'Geometry':
        """Return the geometry of images whose map of stride 32 has so many rows and columns."""
        rows, columns = cells
        maps = tuple((times * rows, times * columns) for times in (4, 2, 1))
        points = (cell_centres(shapes, dtype, device) for shapes in (maps[1:2], maps))
        return cls(maps[1], maps, *points)


def to_map(tokens: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return tokens (B, h * w, C) as a contiguous map (B, C, h, w).

    Examples:
        >>> to_map(torch.randn(1, 6, 8), (2, 3)).shape
        torch.Size([1, 8, 2, 3])
    """
    return tokens.transpose(1, 2).unflatten(2, shape).contiguous()


def to_tokens(x: Tensor) -> Tensor:
    """Return a map (B, C, h, w) as tokens (B, h * w, C); its gradient is in the plain layout.

    Examples:
        >>> to_tokens(torch.randn(1, 8, 2, 3)).shape
        torch.Size([1, 6, 8])
    """
    return PlainLayout.apply(x).flatten(2).transpose(1, 2)


def split_maps(tokens: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the maps (B, C, h, w) that tokens (B, L, C) hold one after the other.

    Examples:
        >>> [tuple(x.shape) for x in split_maps(torch.randn(1, 7, 8), [(2, 3), (1, 1)])]
        [(1, 8, 2, 3), (1, 8, 1, 1)]
    """
    parts = tokens.split([height * width for height, width in shapes], dim=1)
    return [to_map(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalise tokens; a backbone may keep its stream in a wider dtype than its weights have."""
    return norm(x.to(dtype_of(norm, x.dtype)))


class SpatialPrior(nn.Module):
    """A pyramid of convolutions over the image (Sec. 3.3): maps of strides 4, 8, 16 and 32, all of ``embed_dims``.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of the maps.
        channels: Channels of the first convolutions; those that follow have twice and four times as many. Defaults to
            64.
        norm_cfg: Norm layer of the convolutions. Defaults to None, ``dict(type='BN')``.
        finest: Have the map of stride 4. Defaults to True.

    Examples:
        >>> maps = SpatialPrior(3, 8, channels=4)(torch.randn(1, 3, 64, 96))
        >>> [tuple(x.shape) for x in maps]
        [(1, 8, 16, 24), (1, 8, 8, 12), (1, 8, 4, 6), (1, 8, 2, 3)]
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        channels: int = 64,
        norm_cfg: dict | None = None,
        finest: bool = True,
    ) -> None:
        super().__init__()
        norm_cfg = norm_cfg or {'type': 'BN'}

        def convolution(before: int, after: int, stride: int) -> list[nn.Module]:
            return [
                nn.Conv2d(before, after, 3, stride, 1, bias=False),
                build_norm(norm_cfg, after),
                nn.ReLU(inplace=True),
            ]

        self.stem = nn.Sequential(
            *convolution(in_channels, channels, 2),
            *convolution(channels, channels, 1),
            *convolution(channels, channels, 1),
            nn.MaxPool2d(3, 2, 1),
        )
        self.conv2 = nn.Sequential(*convolution(channels, 2 * channels, 2))
        self.conv3 = nn.Sequential(*convolution(2 * channels, 4 * channels, 2))
        self.conv4 = nn.Sequential(*convolution(4 * channels, 4 * channels, 2))
        self.fc1 = nn.Conv2d(channels, embed_dims, 1) if finest else None
        self.fc2 = nn.Conv2d(2 * channels, embed_dims, 1)
        self.fc3 = nn.Conv2d(4 * channels, embed_dims, 1)
        self.fc4 = nn.Conv2d(4 * channels, embed_dims, 1)

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """Map images (B, in_channels, H, W), whose sides 32 divides, to four maps (B, embed_dims, h, w).

        The first is None without ``finest``.
        """
        c1 = self.stem(x)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        c4 = self.conv4(c3)
        return None if self.fc1 is None else self.fc1(c1), self.fc2(c2), self.fc3(c3), self.fc4(c4)


class DepthwiseConv(nn.Module):
    """One depthwise convolution of 3 x 3 on each of several maps that tokens hold one after the other.

    Args:
        channels: Channels.

    Examples:
        >>> DepthwiseConv(8)(torch.randn(1, 7, 8), [(2, 3), (1, 1)]).shape
        torch.Size([1, 7, 8])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)

    def forward(self, x: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Map tokens (B, L, C) of maps of ``shapes`` to the same shape."""
        maps = [self.dwconv(part).flatten(2) for part in split_maps(x, shapes)]  # (B, C, h * w) each
        return torch.cat(maps, dim=2).transpose(1, 2)  # (B, C, L) -> (B, L, C)


class ConvFFN(nn.Module):
    """Two linear layers with a depthwise convolution and GELU between them, on the tokens of a pyramid.

    Args:
        channels: Channels in and out.
        hidden: Channels between.

    Examples:
        >>> ConvFFN(8, hidden=2)(torch.randn(1, 7, 8), [(2, 3), (1, 1)]).shape
        torch.Size([1, 7, 8])
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.dwconv = nn.Linear(channels, hidden), DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Map tokens (B, L, C) of maps of ``shapes`` to the same shape."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), shapes)))


class Injector(nn.Module):
    """Bring features of the pyramid into the backbone's patches (Sec. 3.4), scaled by a learned vector.

    Args:
        embed_dims: Channels.
        num_heads: Heads of the attention.
        num_points: Points in each map.
        value_ratio: Channels of the attention's values over ``embed_dims``.
        init_value: What the vector begins with; with 0 the backbone begins as it is without adapter.

    Examples:
        >>> geometry = Geometry.of((2, 3), torch.float32, torch.device('cpu'))
        >>> patches, pyramid = torch.randn(1, 24, 8), torch.randn(1, 126, 8)
        >>> torch.equal(Injector(8, 2, 4, 1.0, init_value=0.0)(patches, pyramid, geometry), patches)
        True
    """

    def __init__(self, embed_dims: int, num_heads: int, num_points: int, value_ratio: float, init_value: float) -> None:
        super().__init__()
        self.query_norm, self.feat_norm = nn.LayerNorm(embed_dims, eps=_EPS), nn.LayerNorm(embed_dims, eps=_EPS)
        self.attn = DeformableAttention(embed_dims, num_heads, 3, num_points, value_ratio)
        self.gamma = nn.Parameter(torch.full((embed_dims,), init_value))

    def forward(self, patches: Tensor, pyramid: Tensor, geometry: Geometry) -> Tensor:
        """Return the patches (B, h * w, C) with what they take from the pyramid (B, L, C)."""
        query, feature = _normed(self.query_norm, patches), _normed(self.feat_norm, pyramid)
        return patches + self.gamma * self.attn(query, geometry.patch_points, feature, geometry.maps)


class Extractor(nn.Module):
    """Take features of the backbone's patches into the pyramid (Sec. 3.4).

    Args:
        embed_dims: Channels.
        num_heads: Heads of the attention.
        num_points: Points in the map of patches.
        value_ratio: Channels of the attention's values over ``embed_dims``.
        ffn_ratio: Channels inside the :class:`ConvFFN` over ``embed_dims``.
        drop_path_rate: Stochastic depth rate of the :class:`ConvFFN`.

    Examples:
        >>> geometry = Geometry.of((2, 3), torch.float32, torch.device('cpu'))
        >>> Extractor(8, 2, 4, 1.0, 0.25, 0.0)(torch.randn(1, 126, 8), torch.randn(1, 24, 8), geometry).shape
        torch.Size([1, 126, 8])
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_points: int,
        value_ratio: float,
        ffn_ratio: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.query_norm, self.feat_norm = nn.LayerNorm(embed_dims, eps=_EPS), nn.LayerNorm(embed_dims, eps=_EPS)
        self.attn = DeformableAttention(embed_dims, num_heads, 1, num_points, value_ratio)
        self.ffn_norm, self.ffn = nn.LayerNorm(embed_dims, eps=_EPS), ConvFFN(embed_dims, int(embed_dims * ffn_ratio))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, pyramid: Tensor, patches: Tensor, geometry: Geometry) -> Tensor:
        """Return the pyramid (B, L, C) with what it takes from the patches (B, h * w, C)."""
        query, feature = _normed(self.query_norm, pyramid), _normed(self.feat_norm, patches)
        pyramid = pyramid + self.attn(query, geometry.pyramid_points, feature, [geometry.grid])
        return pyramid + self.drop_path(self.ffn(_normed(self.ffn_norm, pyramid), geometry.maps))


class Interaction(nn.Module):
    """An injector before a group of blocks, and extractors after it.

    Args:
        injector: The injector.
        extractors: The extractors, one at least; those after the first are ``extra_extractors``.
        with_cp: Recompute injector and extractors in the backward pass to save memory.

    Examples:
        >>> geometry = Geometry.of((1, 1), torch.float32, torch.device('cpu'))
        >>> injector, extractor = Injector(8, 2, 4, 1.0, init_value=0.0), Extractor(8, 2, 4, 1.0, 0.25, 0.0)
        >>> interaction = Interaction(injector, [extractor], with_cp=False)
        >>> patches, pyramid = torch.randn(1, 4, 8), torch.randn(1, 21, 8)
        >>> interaction.inject(patches, pyramid, geometry).shape
        torch.Size([1, 4, 8])
        >>> interaction.extract(pyramid, patches, geometry).shape
        torch.Size([1, 21, 8])
    """

    def __init__(self, injector: Injector, extractors: Sequence[Extractor], with_cp: bool) -> None:
        super().__init__()
        first, *others = extractors
        self.injector, self.extractor = injector, first
        self.extra_extractors = nn.ModuleList(others) if others else None
        self.with_cp = with_cp

    def _call(self, layer: nn.Module, x: Tensor, y: Tensor, geometry: Geometry) -> Tensor:
        again = self.with_cp and self.training and (x.requires_grad or y.requires_grad)
        return recompute(layer, layer, x, y, geometry) if again else layer(x, y, geometry)

    def inject(self, patches: Tensor, pyramid: Tensor, geometry: Geometry) -> Tensor:
        """See :class:`Injector`."""
        return self._call(self.injector, patches, pyramid, geometry)

    def extract(self, pyramid: Tensor, patches: Tensor, geometry: Geometry) -> Tensor:
        """Run the extractors one after the other, see :class:`Extractor`."""
        for extractor in (self.extractor, *(self.extra_extractors or ())):
            pyramid = self._call(extractor, pyramid, patches, geometry)
        return pyramid
