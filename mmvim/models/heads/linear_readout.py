"""The last layers of a classifier, so that a published one can be checked without MMPreTrain."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmvim.registry import MODELS


def pool(x: Tensor) -> Tensor:
    """Average a map (B, C, H, W) to (B, C); a vector (B, C) is one already.

    Examples:
        >>> pool(torch.ones(2, 8, 3, 5)).shape
        torch.Size([2, 8])
    """
    return x if x.ndim == 2 else x.mean((2, 3))  # (B, C, H, W) -> (B, C)


@MODELS.register_module()
class LinearReadout(nn.Module):
    """Average over the map, if there is one, and apply a linear layer, as the published classifiers do.

    Its parameters have the names of those of MMPreTrain's ``LinearClsHead`` (``fc``), so weights can be exchanged. It
    returns logits; use MMPreTrain's head for losses and metrics.

    Args:
        in_channels: Channels of the feature.
        num_classes: Classes. Defaults to 1000.

    Examples:
        >>> LinearReadout(in_channels=8, num_classes=10)([torch.randn(2, 8, 7, 7)]).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, num_classes: int = 1000) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, num_classes) for the last feature: a map (B, C, H, W) or a vector (B, C)."""
        return self.fc(pool(features[-1]))


@MODELS.register_module()
class HiddenReadout(LinearReadout):
    """:class:`LinearReadout` behind a hidden layer with tanh, as the published VRWKV-L has it.

    Args:
        in_channels: Channels of the feature.
        hidden_channels: Channels of the hidden layer.
        num_classes: Classes. Defaults to 1000.

    Examples:
        >>> HiddenReadout(in_channels=8, hidden_channels=24, num_classes=10)([torch.randn(2, 8, 7, 7)]).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, hidden_channels: int, num_classes: int = 1000) -> None:
        super().__init__(hidden_channels, num_classes)
        self.hidden = nn.Linear(in_channels, hidden_channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, num_classes) for the last feature: a map (B, C, H, W) or a vector (B, C)."""
        return self.fc(torch.tanh(self.hidden(pool(features[-1]))))
