"""Grad-CAM: which cells of a feature map speak for a class.

Selvaraju et al., Grad-CAM, ICCV 2017, https://arxiv.org/abs/1610.02391: channels weighted by the mean of the score's
gradient, summed, and what speaks against the class cut off. Of a segmentor, the score is the sum of the class's over
the pixels that it is predicted for (Vinogradova et al., Seg-Grad-CAM, https://arxiv.org/abs/2002.11434).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmvim.models.backbones.plain import PlainBackbone


class ClassMap(NamedTuple):
    """What speaks for a class.

    Attributes:
        values: float64 (h, w) on the feature map's cells, not negative.
        label: The class.
        scores: What the model returned: (classes,) of a classifier, (classes, h', w') of a segmentor.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.grad_cam import ClassMap
        >>> ClassMap(torch.zeros(2, 3, dtype=torch.float64), 7, torch.zeros(10)).label
        7
    """

    values: Tensor
    label: int
    scores: Tensor


def grad_cam(features: Tensor, score: Tensor) -> Tensor:
    """Return what in a feature map speaks for a score.

    Args:
        features: (1, C, h, w), part of the graph of ``score``.
        score: One number.

    Returns:
        float64 (h, w), not negative.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.grad_cam import grad_cam
        >>> features = torch.tensor([[[[1.0, -1.0, 0.5]], [[0.0, 3.0, 1.0]]]], requires_grad=True)
        >>> grad_cam(features, (2 * features[0, 0] - features[0, 1]).sum()).tolist()
        [[2.0, 0.0, 0.0]]
    """
    (gradient,) = torch.autograd.grad(score, features)
    weights = gradient.double().mean((2, 3), keepdim=True)  # (1, C, 1, 1)
    return (weights * features.detach().double()).sum(1)[0].relu().cpu()


def class_map(
    model: nn.Module, picture: Tensor, label: int | None = None, output: int = -1, forward: Callable | None = None
) -> ClassMap:
    """Return what speaks for a class of a classifier or a segmentor, on one of its backbone's maps.

    Where a classifier reads a class token, the backbone returns no map: then the tokens are taken that enter its last
    block.

    Args:
        model: A classifier or a segmentor with a part ``backbone``.
        picture: (1, channels, H, W).
        label: The class. Defaults to None: that of the highest score, or of most pixels.
        output: Which of the backbone's maps, negative from the end. Defaults to -1, the last.
        forward: Returns the scores (1, classes, ...) for the picture. Defaults to None, calling the model.

    Raises:
        ValueError: If the model has no backbone, there is no such class or map, or no pixel is predicted to be of the
            class.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.visualize.grad_cam import class_map
        >>> model = torch.nn.Sequential()
        >>> model.backbone = torch.nn.Conv2d(3, 8, 4, stride=4)
        >>> model.head = torch.nn.Conv2d(8, 5, 1)
        >>> found = class_map(model, torch.randn(1, 3, 32, 48))
        >>> found.values.shape, found.label in range(5), found.scores.shape
        (torch.Size([8, 12]), True, torch.Size([5, 8, 12]))
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(f'{type(model).__name__} has no part called backbone, whose maps Grad-CAM reads')
    training = model.training
    model.eval()
    try:
        with torch.enable_grad(), _Features(backbone, output) as kept:
            picture = picture.detach().requires_grad_()  # so that there is a gradient if all weights are frozen
            scores = model(picture) if forward is None else forward(picture)
            scores = scores[0] if isinstance(scores, (tuple, list)) else scores
            label, score = _score(scores[0], label)
            values = grad_cam(kept.features(), score)
    finally:
        model.train(training)
    return ClassMap(values, label, scores[0].detach().cpu())


def _score(scores: Tensor, label: int | None) -> tuple[int, Tensor]:
    """Return the class and its score; of a segmentor the sum over the pixels of the class."""
    classes = len(scores)
    if label is not None and not 0 <= label < classes:
        raise ValueError(f'label={label} must lie in 0..{classes - 1}')
    if scores.ndim == 1:
        label = int(scores.argmax()) if label is None else label
        return label, scores[label]
    predicted = scores.argmax(0)
    counts = predicted.flatten().bincount(minlength=classes)
    label = int(counts.argmax()) if label is None else label
    if not counts[label]:
        found = ', '.join(str(k) for k in counts.nonzero().flatten().tolist())
        raise ValueError(f'label={label}: no pixel is predicted to be of this class; those that occur are {found}')
    return label, scores[label][predicted == label].sum()


class _Features:
    """Keep, while a model runs, one of its backbone's maps, or the map of the tokens before its last block."""

    def __init__(self, backbone: nn.Module, output: int) -> None:
        self.backbone, self.output = backbone, output
        self._found: Tensor | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> '_Features':
        if isinstance(self.backbone, PlainBackbone) and getattr(self.backbone, 'out_type', '') == 'cls_token':
            last = self.backbone.layers[self.backbone.needed - 1]
            self._hooks.append(last.register_forward_pre_hook(self._keep_stream))
        else:
            self._hooks.append(self.backbone.register_forward_hook(self._keep_output))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep_output(self, module: nn.Module, args: tuple, outputs: Any) -> None:
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if not -len(outputs) <= self.output < len(outputs):
            raise ValueError(f'output={self.output}: the backbone returns {len(outputs)} maps, 0 to {len(outputs) - 1}')
        self._found = outputs[self.output]

    def _keep_stream(self, module: nn.Module, args: tuple) -> tuple:
        """Put a map into the graph between the last block and the one before it."""
        hidden, residual, with_cp, grid = args
        tokens = residual if hidden is None else residual + hidden  # the block's first step
        patches = self.backbone.patches_of(tokens, grid)
        self._found = patches.transpose(1, 2).unflatten(2, grid)  # (1, h * w, C) -> (1, C, h, w)
        tokens = self.backbone.with_patches(tokens, self._found.flatten(2).transpose(1, 2), grid)
        return None, tokens, with_cp, grid

    def features(self) -> Tensor:
        """Return the map, (1, C, h, w)."""
        if self._found is None or self._found.ndim != 4:
            shape = None if self._found is None else tuple(self._found.shape)
            raise ValueError(f'the backbone must return a map (B, C, h, w), which Grad-CAM reads; got shape {shape}')
        return self._found
