"""Layers that weigh the channels of a map by what its mean says, with the parameters of three publishers.

LocalMamba and EfficientVMamba norm the cells first; EfficientVMamba's convolutions and MSVMamba squeeze and excite
('Squeeze-and-Excitation Networks', Hu et al., CVPR 2018, https://arxiv.org/abs/1709.01507). Written from the papers and
from recorded outputs.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from mmvim.models.layers.plain_layers import dtype_of


class ChannelGate(nn.Module):
    """Scale the channels of cells by what the mean of the normed cells says.

    'BiAttn' of the published models, without its attention over space.

    Args:
        dim: Channels.
        reduction: ``dim`` over the hidden channels, of which there is at least one. Defaults to 8.

    Examples:
        >>> import torch
        >>> ChannelGate(8)(torch.randn(1, 3, 5, 8)).shape
        torch.Size([1, 3, 5, 8])
    """

    def __init__(self, dim: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(dim // reduction, 1)
        self.norm = nn.LayerNorm(dim)
        self.global_reduce, self.channel_select = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def weights(self, x: Tensor, over: tuple[int, ...]) -> Tensor:
        """Return the factor of each channel, in x's dtype.

        Args:
            x: (..., C).
            over: The axes of the mean; they have size 1 in what is returned.
        """
        mean = self.norm(x.to(dtype_of(self.norm, x.dtype))).mean(over, keepdim=True)
        return self.channel_select(F.gelu(self.global_reduce(mean))).sigmoid().to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., H, W, C); same shape out."""
        return x * self.weights(x, over=(-3, -2))


class SqueezeExcite(nn.Module):
    """Scale the channels of a map by what their mean over the picture says, in 1 x 1 convolutions.

    Args:
        dim: Channels.
        hidden: Channels between the convolutions.

    Examples:
        >>> import torch
        >>> SqueezeExcite(8, 2)(torch.randn(1, 8, 3, 5)).shape
        torch.Size([1, 8, 3, 5])
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.conv_reduce, self.conv_expand = nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale (B, C, H, W); same shape out."""
        mean = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * self.conv_expand(F.relu(self.conv_reduce(mean))).sigmoid()


class LinearSqueezeExcite(nn.Module):
    """Weigh the channels of a map by what its mean says.

    Args:
        dim: Channels.
        reduction: ``dim`` over the hidden channels.

    Examples:
        >>> import torch
        >>> LinearSqueezeExcite(16, reduction=8)(torch.randn(2, 16, 3, 5)).shape
        torch.Size([2, 16, 3, 5])
    """

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(dim, dim // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(dim // reduction, dim, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]
