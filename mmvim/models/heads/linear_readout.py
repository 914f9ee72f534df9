"""The classifiers' read-out, so that a published one can be checked without MMPreTrain."""

from collections.abc import Sequence

from torch import Tensor, nn

from mmvim.registry import MODELS


@MODELS.register_module()
class LinearReadout(nn.Module):
    """Mean over the map, if there is one, and a linear layer: what the published classifiers end with.

    Its parameters are named as those of MMPreTrain's LinearClsHead (`fc`), so that weights go either way. It
    returns logits; for losses and metrics take MMPreTrain's.

    Args:
        in_channels: Channels of the feature.
        num_classes: Classes. Defaults to 1000.
    """

    def __init__(self, in_channels: int, num_classes: int = 1000) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (B, num_classes) from the last feature: a map (B, C, H, W) or a vector (B, C)."""
        x = features[-1]
        return self.fc(x if x.ndim == 2 else x.mean((2, 3)))
