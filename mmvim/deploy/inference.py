"""A copy of a model that is made for inference alone: what depends on weights only is computed once."""

from __future__ import annotations

import copy
import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeVar

from mmcv.cnn import ConvModule
from torch import nn

from mmvim.deploy.fold import fold_norm, with_plain_linears
from mmvim.models.layers.derived_weights import DerivedWeights
from mmvim.models.layers.plain_layers import InferenceLinear, is_plain
from mmvim.models.layers.vim_mixer import VimMixer

Model = TypeVar('Model', bound=nn.Module)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_REMEDY = 'go back to the model that the copy was made of, and make a new copy afterwards'


def optimize_for_inference(model: Model, in_chunks: bool = True) -> Model:
    """Return an equal copy of a model that computes faster and cannot be trained; the model itself stays as it is.

    In the copy, which is in eval mode,

    - batch norms are folded into the convolutions before them;
    - scans keep A = -exp(A_log), and Vim's the weights of both directions side by side;
    - the factor 1/2 with which Vim averages its directions is in ``out_proj``;
    - linear layers run in oneDNN where PyTorch would take MKL on another maker's processor (see
      :func:`mmvim.ops.linear.linear`);
    - Vim's mixers work through long sequences piece by piece, in less memory.

    What somebody wraps, observes or replaces (hooks, LoRA, pruning, int8) is left as it is. Equal means to the rounding
    of float32: the outputs differ by some 1e-6 of their size.

    The copy's weights have other values than the model's, and are not to be saved as the model's or written to: its
    ``load_state_dict`` raises, and so does ``train()``.

    Args:
        model: A backbone, a segmentor, a detector, a classifier, or any other module that has parts of mmvim's.
        in_chunks: Let Vim's mixers work piece by piece on more than 2,048 tokens: in half of the memory, for some more
            time than the copy takes without. Defaults to True.

    Returns:
        The copy, of the same class, without gradients.

    Raises:
        TypeError: If it is no module.
        ValueError: If it is such a copy already.

    Examples:
        >>> import torch
        >>> import mmvim
        >>> from mmvim.models import Vim
        >>> model = Vim({'embed_dims': 16, 'depth': 2}, img_size=64).eval()
        >>> fast = mmvim.optimize_for_inference(model)
        >>> image = torch.randn(1, 3, 64, 64)
        >>> torch.allclose(fast(image)[0], model(image)[0], atol=1e-5)
        True
        >>> try:
        ...     fast.train()
        ... except RuntimeError as error:
        ...     print(str(error).split(';')[0])
        this Vim is a copy for inference (mmvim.optimize_for_inference) and cannot be trained
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f'model must be a torch.nn.Module, got {type(model).__name__}')
    if is_optimized(model):
        raise ValueError(f'this {type(model).__name__} is a copy for inference already; {_REMEDY}')
    made = with_plain_linears(copy.deepcopy(model).eval().requires_grad_(False))
    places = Counter(id(child) for module in made.modules() for child in module._modules.values())
    for module in list(made.modules()):
        for conv, owner, name in _pairs(module):
            norm = owner.get_submodule(name)
            if _foldable(conv, norm) and places[id(conv)] == places[id(norm)] == 1:
                fold_norm(conv, norm)
                owner._modules[name] = nn.Identity().eval()
    for module in made.modules():
        if is_plain(nn.Linear, module):
            module.__class__ = InferenceLinear
        if isinstance(module, VimMixer):
            module.fold_average()
            module.in_chunks = in_chunks
        if isinstance(module, DerivedWeights):
            module.keep_derived()
        module.train = functools.partial(_train, module)  # type: ignore[method-assign]
        hooks = dict(module._load_state_dict_pre_hooks)
        module._load_state_dict_pre_hooks.clear()  # those come after it that change the weights
        module._register_load_state_dict_pre_hook(functools.partial(_refuse_weights, type(module).__name__))
        module._load_state_dict_pre_hooks.update(hooks)
    return made


def is_optimized(model: nn.Module) -> bool:
    """Return whether a model, or a part of it, was made by :func:`optimize_for_inference`.

    Examples:
        >>> is_optimized(nn.Linear(2, 2)), is_optimized(nn.Sequential(optimize_for_inference(nn.Linear(2, 2))))
        (False, True)
    """
    return any(getattr(module.__dict__.get('train'), 'func', None) is _train for module in model.modules())


def _train(module: nn.Module, mode: bool = True) -> nn.Module:
    """Stand in for ``train``: eval mode is all there is."""
    if mode:
        raise RuntimeError(
            f'this {type(module).__name__} is a copy for inference (mmvim.optimize_for_inference) and cannot be '
            f'trained; {_REMEDY}'
        )
    return module


def _refuse_weights(kind: str, *_: Any) -> None:
    """Stand before ``load_state_dict``."""
    raise RuntimeError(
        f'this {kind} is a copy for inference (mmvim.optimize_for_inference), whose weights are folded and cannot be '
        f'loaded; {_REMEDY}'
    )


def _pairs(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Module, str]]:
    """Yield each convolution whose output goes to a norm and nowhere else, with the norm's owner and name there.

    Known are ``nn.Sequential``, mmcv's ``ConvModule``, and modules that name such pairs in ``conv_norms``.
    """
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        children = [(name, child) for name, child in module._modules.items() if child is not None]
        for (_, conv), (name, _) in itertools.pairwise(children):
            yield conv, module, name
    elif (
        type(module) is ConvModule
        and module.with_norm
        and not module.with_spectral_norm
        and 'conv norm' in ' '.join(module.order)
    ):
        yield module.conv, module, module.norm_name
    for conv, norm in getattr(module, 'conv_norms', ()):
        yield module.get_submodule(conv), module, norm


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    """Return whether both are plain layers, and the norm one by recorded statistics."""
    if type(conv) not in _CONVS or type(norm) not in _NORMS or norm.running_mean is None:
        return False
    if isinstance(conv, nn.ConvTranspose2d) and conv.groups > 1:
        return False
    return is_plain(type(conv), conv) and is_plain(type(norm), norm)
