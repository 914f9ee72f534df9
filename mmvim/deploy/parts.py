"""The parts of a model that are exported: tensors in, tensors out, without losses, data samples or lists of dicts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvim.deploy.errors import DeployError


class Segmentor(nn.Module):
    """An ``EncoderDecoder`` of MMSegmentation as a function of the picture, over the whole of it.

    Args:
        model: The segmentor. Its decode head maps features to a map of scores, as all on ``BaseDecodeHead`` do.
        labels: Return the class of each pixel instead of the scores of all.

    Raises:
        DeployError: If it is another kind of model.
    """

    def __init__(self, model: nn.Module, labels: bool) -> None:
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        super().__init__()
        head = getattr(model, 'decode_head', None)
        if not isinstance(head, BaseDecodeHead) or not hasattr(model, 'extract_feat'):
            kind = type(model).__name__ if head is None else f'{type(model).__name__} with {type(head).__name__}'
            raise DeployError(f'{kind} cannot be exported as a whole', 'export its backbone: --part backbone')
        self.model, self.labels = model, labels
        self.threshold = getattr(head, 'threshold', None) or 0.5

    def logits(self, image: Tensor) -> Tensor:
        """Return the scores (B, classes, H, W) of pictures (B, 3, H, W)."""
        scores = self.model.decode_head(self.model.extract_feat(image))  # (B, classes, h, w)
        corners = self.model.decode_head.align_corners
        return F.interpolate(scores, size=image.shape[2:], mode='bilinear', align_corners=corners)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (B, classes, H, W), or labels (B, H, W), int64."""
        scores = self.logits(image)
        if not self.labels:
            return scores
        if scores.shape[1] == 1:
            return (scores[:, 0].sigmoid() > self.threshold).long()
        return scores.argmax(dim=1)


class Classifier(nn.Module):
    """An ``ImageClassifier`` of MMPreTrain as a function of the picture.

    Args:
        model: The classifier.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Return the scores (B, classes) of pictures (B, 3, H, W)."""
        return self.model(image, mode='tensor')


class Features(nn.Module):
    """A backbone as a function of the picture.

    Args:
        model: The backbone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return its outputs, maps (B, C, h, w) as a rule."""
        outputs = self.model(image)
        return outputs if isinstance(outputs, torch.Tensor) else tuple(outputs)
