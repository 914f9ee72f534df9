"""When a fused path may read the weights of a layer, and when the layer must be called."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as modules

from mmvim.ops.linear import linear


class InferenceLinear(nn.Linear):
    """A linear layer by :func:`mmvim.ops.linear.linear`, as :func:`mmvim.optimize_for_inference` makes them.

    Examples:
        >>> layer = nn.Linear(2, 3).requires_grad_(False)
        >>> x = torch.randn(5, 2)
        >>> wanted = layer(x)
        >>> layer.__class__ = InferenceLinear
        >>> torch.allclose(layer(x), wanted, atol=1e-6), is_plain(nn.Linear, layer)
        (True, True)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return linear(x, self.weight, self.bias)


def _hooks_of_all_modules() -> bool:
    """Return whether there are any; each of those with keyword arguments, or called always, is among these, too."""
    return bool(
        modules._global_backward_pre_hooks
        or modules._global_backward_hooks
        or modules._global_forward_pre_hooks
        or modules._global_forward_hooks
    )


def is_plain(kind: type[nn.Module], *layers: nn.Module) -> bool:
    """Return whether calling the layers would run their class's own forward on their own weights, and nothing else.

    A fused path may then read the weights. Otherwise somebody wraps, replaces, shards or observes a layer or its
    weights (a hook, LoRA, weight norm, pruning, int8, FSDP) and would be bypassed without notice, so the layer must be
    called.

    Args:
        kind: The class that the layers were built with; a subclass is not plain, but for :class:`InferenceLinear`.
        *layers: The layers.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> is_plain(nn.Linear, layer)
        True
        >>> handle = layer.register_forward_hook(lambda module, inputs, output: None)
        >>> is_plain(nn.Linear, layer)
        False
    """
    return not _hooks_of_all_modules() and all(
        (type(layer) is kind or (type(layer) is InferenceLinear and kind is nn.Linear))
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
        and not layer._backward_hooks
        and not layer._backward_pre_hooks
        and 'forward' not in layer.__dict__  # replaced on the object, as libraries for offloading do
        and _is_ordinary(layer.weight)
        for layer in layers
    )


def _is_ordinary(weight: object) -> bool:
    """Return whether a weight is no tensor of a class of its own: quantised and sharded ones know their layers only."""
    return type(weight) is nn.Parameter or type(weight) is Tensor


def dtype_of(layer: nn.Module, default: torch.dtype) -> torch.dtype:
    """Return the floating dtype of a layer's weight, or ``default`` if it has none, as an int8 layer.

    Examples:
        >>> dtype_of(nn.Linear(2, 2).half(), torch.float32), dtype_of(nn.ReLU(), torch.float32)
        (torch.float16, torch.float32)
    """
    weight = getattr(layer, 'weight', None)
    return weight.dtype if isinstance(weight, Tensor) and weight.is_floating_point() else default


def call_with_bias(layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """Call a linear layer and return its bias, too, as whatever wraps or replaces the layer has it.

    For scans to which the published models give a bias that is in delta already.

    Args:
        layer: The layer, which has a bias.
        x: Tokens (B, L, in).

    Returns:
        The layer's output (B, L, out), bias included, and the bias (out,).

    Examples:
        >>> layer = nn.Linear(3, 2)
        >>> y, bias = call_with_bias(layer, torch.randn(1, 5, 3))
        >>> y.shape, torch.equal(bias, layer.bias)
        (torch.Size([1, 5, 2]), True)
    """
    if is_plain(nn.Linear, layer):
        return layer(x), layer.bias
    y = layer(F.pad(x, (0, 0, 0, 1)))  # one token more, of zeros: the layer makes its bias of it
    return y[:, :-1], y[0, -1]
