"""Layer-wise learning rate decay and weight-decay rules for every mmvim backbone.

Layer-wise decay is the fine-tuning recipe of BEiT (https://arxiv.org/abs/2106.08254) and ViTDet
(https://arxiv.org/abs/2203.16527): the nearer a parameter is to the image, the smaller its learning rate. The
constructor knows no backbone by name: it asks the backbone for the depth of each parameter through
``get_layer_depth``, the protocol of MMPretrain, so that a backbone and its decay cannot drift apart. A renamed
``ModuleList`` that silently gets no decay is the classic failure of matching names.
"""

import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from mmvim.registry import OPTIM_WRAPPER_CONSTRUCTORS

SSM_PARAMETERS = frozenset({'A_log', 'A_b_log', 'A_logs', 'D', 'D_b', 'Ds'})
"""Names of state-space parameters that weight decay would pull towards a wrong time constant or skip weight."""

_DEFAULTS = {
    'layer_decay_rate': 1.0,
    'layer_decay_scope': 'all',
    'norm_decay_mult': 0.0,
    'bias_decay_mult': 0.0,
    'flat_decay_mult': 0.0,
    'custom_keys': {},
}
_SCOPES = ('all', 'embeddings')
_CUSTOM_FIELDS = ('lr_mult', 'decay_mult')
_NORM_CLASS = re.compile(r'(norm|^[blgi]n)(\dd)?$', re.IGNORECASE)
_POSITION_OR_TOKEN = re.compile(r'pos_embed|position|(cls|class|dist|mask|register)_token')


@dataclass
class _Group:
    """Parameters that share a learning rate and a weight decay."""

    lr_scale: float
    weight_decay: float
    params: list[nn.Parameter] = field(default_factory=list)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LearningRateDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """An optimizer wrapper constructor with layer-wise learning rates and weight-decay rules for state-space models.

    A parameter at depth ``d`` of a backbone with ``n`` layers gets ``lr * layer_decay_rate ** (n - 1 - d)``, where
    ``d`` and ``n`` come from ``backbone.get_layer_depth(name, prefix)``. Depth 0 is the patch embedding, the position
    embedding and the tokens; depth ``n - 1`` is what follows the last block. Necks and heads always have the full rate.
    For Vim, ``n`` is 26: with a rate of 0.92 its patch embedding learns at ``0.92 ** 25 = 0.124`` of ``lr``.

    The model may be a segmentor or detector (``model.backbone``), a bare backbone, or either of them inside a wrapper
    (``model.module``). Frozen parameters are left out; a shared parameter is counted once, under its first name.

    Weight decay: with an empty ``paramwise_cfg`` there is **none** on state-space parameters (``A_log``, ``D`` and
    the like, and whatever carries ``param._no_weight_decay = True``), position embeddings, class tokens, the weights
    and biases of normalisation layers of any kind, other biases, and other one-dimensional parameters such as layer
    scales.

    Args:
        optim_wrapper_cfg: Config of the wrapper with a field ``optimizer``, which must state ``lr`` and
            ``weight_decay`` (0 for none; leaving it out would mean the optimizer's own default, 0.01 for AdamW).
        paramwise_cfg: Any of the following; any other key is an error. Defaults to None.

            - ``layer_decay_rate`` (float): Factor between neighbouring layers, in (0, 1]. ``decay_rate`` is an alias.
              Defaults to 1.0, no layer decay; the backbone then needs no ``get_layer_depth``.
            - ``layer_decay_scope`` (str): ``'all'`` scales every layer. ``'embeddings'`` scales depth 0 alone, by the
              factor that it has under ``'all'``, and leaves the blocks at the full rate. The published segmentation
              code of Vim computes this, because its constructor looks for ``backbone.blocks`` in a model that has
              ``backbone.layers``. Defaults to ``'all'``.
            - ``norm_decay_mult`` (float): Factor on the weight decay of normalisation layers. Defaults to 0.
            - ``bias_decay_mult`` (float): Factor on the weight decay of biases outside of them. Defaults to 0.
            - ``flat_decay_mult`` (float): Factor on the weight decay of the remaining one-dimensional parameters.
              Defaults to 0.
            - ``custom_keys`` (dict[str, dict]): For parameters whose name contains the key (the longest key that
              fits; among equals the first in the alphabet): ``lr_mult``, multiplied on top of the layer's scale, and
              ``decay_mult``, which replaces every rule above. A key without ``decay_mult`` leaves the rules in force.
              Defaults to {}.

    Raises:
        TypeError: If ``paramwise_cfg`` or ``custom_keys`` is not a dict.
        ValueError: If a key is unknown, a value is out of range, ``lr`` or ``weight_decay`` is missing, nothing is
            trainable, or layer decay is asked of a backbone without ``get_layer_depth``.

    Examples:
        >>> from mmengine.logging import MMLogger
        >>> from mmengine.optim import build_optim_wrapper
        >>> from mmvim.models import Vim
        >>> optim_wrapper = dict(
        ...     type='OptimWrapper',
        ...     constructor='mmvim.LearningRateDecayOptimWrapperConstructor',
        ...     paramwise_cfg=dict(layer_decay_rate=0.5),
        ...     optimizer=dict(type='AdamW', lr=0.001, weight_decay=0.1))
        >>> model = Vim(arch=dict(embed_dims=8, depth=1), img_size=32)
        >>> MMLogger.get_current_instance().setLevel('ERROR')  # else it logs a table of the groups
        >>> groups = build_optim_wrapper(model, optim_wrapper).optimizer.param_groups
        >>> [(group['lr'], group['weight_decay']) for group in groups]
        [(0.00025, 0.0), (0.00025, 0.1), (0.0005, 0.0), (0.0005, 0.1)]
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, _complete(paramwise_cfg))

    def _validate_cfg(self) -> None:
        for name, value in (('lr', self.base_lr), ('weight_decay', self.base_wd)):
            if value is None:
                raise ValueError(
                    f'optim_wrapper.optimizer.{name} is missing, and parameter groups are built from it: '
                    f'state {name} (0 for none), got optimizer={dict(self.optimizer_cfg)}'
                )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper.

        Args:
            model: Segmentor, detector or backbone, wrapped or not.

        Returns:
            A wrapper of the type in ``optim_wrapper_cfg`` (defaults to ``OptimWrapper``). Each parameter group carries
            ``lr``, ``weight_decay`` and ``lr_scale``.
        """
        return super().__call__(_unwrap(model))

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: int | float | None = None
    ) -> None:
        """Append the parameter groups of ``module`` to ``params``; called once, with the whole model.

        Args:
            params: List of groups, extended in place, smallest learning rate first.
            module: The whole model, unwrapped.
            prefix: Unused; the parent class recurses with it. Defaults to ''.
            is_dcn_module: Unused, like ``prefix``. Defaults to None.

        Raises:
            ValueError: If no parameter of the model is trainable.
        """
        rate = self.paramwise_cfg['layer_decay_rate']
        layer_scale = _layer_scale_of(module, rate, self.paramwise_cfg['layer_decay_scope'])
        custom_keys = self.paramwise_cfg['custom_keys']
        unmatched = set(custom_keys)
        groups: dict[tuple[float, float], _Group] = {}
        frozen = 0
        for name, param, owner in _named_parameters(module):
            if not param.requires_grad:
                frozen += 1
                continue
            key = _longest_key(name, custom_keys)
            unmatched.discard(key)
            custom = custom_keys.get(key, {})
            lr_scale = layer_scale(name) * custom.get('lr_mult', 1.0)
            decay_mult = custom.get('decay_mult')
            if decay_mult is None:
                decay_mult = self._decay_mult(name, param, owner)
            weight_decay = self.base_wd * decay_mult
            group = groups.setdefault((lr_scale, weight_decay), _Group(lr_scale, weight_decay))
            group.params.append(param)
        if not groups:
            raise ValueError(
                f'{type(module).__name__} has no trainable parameter ({frozen} frozen): '
                'lower frozen_stages or leave something unfrozen'
            )
        ordered = [groups[key] for key in sorted(groups)]
        for group in ordered:
            params.append(
                {
                    'params': group.params,
                    'lr': self.base_lr * group.lr_scale,
                    'weight_decay': group.weight_decay,
                    'lr_scale': group.lr_scale,
                }
            )
        print_log(_table(ordered, self.base_lr, rate, frozen), logger='current')
        for key in sorted(unmatched):
            print_log(
                f'paramwise_cfg.custom_keys[{key!r}] decides no trainable parameter: check the spelling',
                logger='current',
                level=logging.WARNING,
            )

    def _decay_mult(self, name: str, param: nn.Parameter, owner: nn.Module) -> float:
        leaf = name.rpartition('.')[2]
        if getattr(param, '_no_weight_decay', False) or leaf in SSM_PARAMETERS or _POSITION_OR_TOKEN.search(leaf):
            return 0.0
        if _is_norm(owner):
            return self.paramwise_cfg['norm_decay_mult']
        if leaf.endswith('bias'):
            return self.paramwise_cfg['bias_decay_mult']
        if param.ndim <= 1:
            return self.paramwise_cfg['flat_decay_mult']
        return 1.0


def _complete(paramwise_cfg: dict | None) -> dict:
    """Check ``paramwise_cfg`` and fill in the defaults, so that an empty one still gets the weight-decay rules."""
    given = {} if paramwise_cfg is None else paramwise_cfg
    if not isinstance(given, dict):
        raise TypeError(f'paramwise_cfg must be a dict or None, got {type(given).__name__}')
    given = dict(given)
    if 'decay_rate' in given:
        if 'layer_decay_rate' in given:
            raise ValueError(
                f'paramwise_cfg has both layer_decay_rate={given["layer_decay_rate"]} and its alias '
                f'decay_rate={given["decay_rate"]}: keep one (the other may come from a base config)'
            )
        given['layer_decay_rate'] = given.pop('decay_rate')
    unknown = sorted(set(given) - set(_DEFAULTS))
    if unknown:
        raise ValueError(f'paramwise_cfg has unknown keys {unknown}; known are {sorted([*_DEFAULTS, "decay_rate"])}')
    cfg = {**_DEFAULTS, **given}
    rate = cfg['layer_decay_rate']
    if not _is_number(rate) or not 0 < rate <= 1:
        raise ValueError(f'paramwise_cfg.layer_decay_rate must be in (0, 1], got {rate!r}')
    if cfg['layer_decay_scope'] not in _SCOPES:
        raise ValueError(f'paramwise_cfg.layer_decay_scope must be one of {_SCOPES}, got {cfg["layer_decay_scope"]!r}')
    for name in ('norm_decay_mult', 'bias_decay_mult', 'flat_decay_mult'):
        _check_mult(f'paramwise_cfg.{name}', cfg[name])
    _check_custom_keys(cfg['custom_keys'])
    return cfg


def _check_custom_keys(custom_keys: dict) -> None:
    if not isinstance(custom_keys, dict):
        raise TypeError(f'paramwise_cfg.custom_keys must be a dict, got {type(custom_keys).__name__}')
    for key, setting in custom_keys.items():
        where = f'paramwise_cfg.custom_keys[{key!r}]'
        if not isinstance(setting, dict):
            raise TypeError(f'{where} must be a dict with any of {_CUSTOM_FIELDS}, got {setting!r}')
        unknown = sorted(set(setting) - set(_CUSTOM_FIELDS))
        if unknown:
            raise ValueError(f'{where} has unknown keys {unknown}; known are {list(_CUSTOM_FIELDS)}')
        for name, value in setting.items():
            _check_mult(f'{where}.{name}', value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_mult(name: str, value: object) -> None:
    if not _is_number(value) or value < 0:
        raise ValueError(f'{name} must be a number of at least 0, got {value!r}')


def _unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside data-parallel wrappers (``module``) and ``torch.compile`` (``_orig_mod``)."""
    while True:
        inner = getattr(model, 'module', getattr(model, '_orig_mod', None))
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Yield each parameter once, with its first name and the module that holds it."""
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for leaf, param in module.named_parameters(recurse=False):
            if id(param) not in seen:
                seen.add(id(param))
                yield (f'{module_name}.{leaf}' if module_name else leaf), param, module


def _layer_scale_of(model: nn.Module, rate: float, scope: str) -> Callable[[str], float]:
    """Return a function that maps a parameter's name to its factor on the learning rate."""
    if rate == 1:
        return lambda name: 1.0
    backbones = _find_backbones(model)

    def scale(name: str) -> float:
        for prefix, backbone in backbones.items():
            if name.startswith(prefix):
                depth, num_layers = backbone.get_layer_depth(name, prefix)
                if not 0 <= depth < num_layers:
                    raise ValueError(
                        f'{type(backbone).__name__}.get_layer_depth({name!r}, {prefix!r}) returned depth '
                        f'{depth} of {num_layers} layers; a depth must lie in [0, {num_layers})'
                    )
                return rate ** (num_layers - 1 - depth) if scope == 'all' or depth == 0 else 1.0
        return 1.0

    return scale


def _find_backbones(model: nn.Module) -> dict[str, nn.Module]:
    """Return each backbone by its name prefix: usually ``'backbone.'``, and ``''`` for a bare backbone."""
    owner = getattr(model, 'backbone', None)
    if isinstance(owner, nn.Module) and not hasattr(owner, 'get_layer_depth'):
        raise ValueError(
            f'layer decay needs backbone.get_layer_depth(param_name, prefix), and {type(owner).__name__} lacks it: '
            'use a backbone of mmvim or mmpretrain, or leave layer_decay_rate at 1.0'
        )
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if name == '' and owner is not None:  # a classifier that merely forwards the question to its backbone
            continue
        inside = any(name.startswith(prefix) for prefix in found)
        if hasattr(module, 'get_layer_depth') and not inside:
            found[f'{name}.' if name else ''] = module
    if not found:
        raise ValueError(
            f'layer decay needs a backbone with get_layer_depth(param_name, prefix), and no part of '
            f'{type(model).__name__} has it: use a backbone of mmvim or mmpretrain, or leave '
            'layer_decay_rate at 1.0'
        )
    return found


def _is_norm(module: nn.Module) -> bool:
    """Check whether ``module`` is a normalisation layer, by the name of its class or of a base (LayerNorm, RMSNorm).

    By name, because a library's own RMSNorm need not derive from anything in torch.
    """
    is_leaf = next(module.children(), None) is None
    return is_leaf and any(_NORM_CLASS.search(cls.__name__) for cls in type(module).__mro__)


def _longest_key(name: str, keys: dict) -> str | None:
    return next((key for key in sorted(sorted(keys), key=len, reverse=True) if key in name), None)


def _table(groups: list[_Group], base_lr: float, rate: float, frozen: int) -> str:
    """Return a table with one line per group, which counts its tensors and their elements."""
    lines = [
        f'Optimizer: {len(groups)} parameter groups, base lr {base_lr:g}, layer decay {rate:g}'
        + (f', {frozen} frozen tensors left out' if frozen else ''),
        f'{"lr scale":>10} {"lr":>10} {"weight decay":>13} {"tensors":>8} {"parameters":>12}',
    ]
    for g in groups:
        elements = sum(p.numel() for p in g.params)
        lines.append(
            f'{g.lr_scale:>10.4g} {base_lr * g.lr_scale:>10.3g} {g.weight_decay:>13.4g} '
            f'{len(g.params):>8} {elements:>12,}'
        )
    return '\n'.join(lines)
