"""A first build of the model before the runner's own, so that a failure is reported before anything is written."""

import copy
import inspect
import re
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmvim.cli.config import missing_ops
from mmvim.cli.errors import ENVIRONMENT, USAGE, UserError, describe, warn
from mmvim.cli.noise import quiet
from mmvim.models.backbones.base import Backbone

_UNKNOWN_ARGUMENT = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def build_model(cfg: Config) -> nn.Module:
    """Build ``cfg.model`` on the CPU with the weights of its constructors; files named by ``init_cfg`` are not read.

    SyncBN becomes BatchNorm, as in the runner outside a distributed run; names of parameters stay the same.

    Args:
        cfg: The config, left as it is.

    Returns:
        The model.

    Raises:
        UserError: If a ``type`` is not registered, an argument is unknown or has a value that its class refuses, or a
            compiled op or a package is missing.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli import build_model
        >>> model = dict(type='mmvim.Vim', arch=dict(embed_dims=8, depth=1), img_size=32)
        >>> type(build_model(Config(dict(model=model)))).__name__
        'Vim'
    """
    try:
        with MODELS.switch_scope_and_registry(cfg.get('default_scope')) as registry, quiet():
            return revert_sync_batchnorm(registry.build(_with_preprocessor(cfg)))
    except ImportError as error:
        if '_ext' in str(error):
            raise missing_ops('the model') from error
        raise UserError(f'the model needs a package: {describe(error)}', 'install it', ENVIRONMENT) from error
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        problem = _config_problem(error)
        if problem is None:
            raise
        remedy = _inherited(cfg, error) or 'correct the config or --cfg-options (MMVIM_DEBUG=1 shows where)'
        raise UserError(f'the model cannot be built: {problem}', remedy) from error


def check_wrapping(cfg: Config, model: nn.Module) -> None:
    """Check the options of MMEngine that change the forward pass of parts of the model.

    Args:
        cfg: The config.
        model: The model, as :func:`build_model` returns it.

    Raises:
        UserError: If ``activation_checkpointing`` or ``efficient_conv_bn_eval`` names a part that the model does not
            have, or one to which it cannot be applied.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli import UserError, build_model
        >>> from mmvim.cli.model import check_wrapping
        >>> backbone = dict(type='mmvim.Vim', arch=dict(embed_dims=8, depth=1), img_size=32)
        >>> cfg = Config(dict(model=backbone, activation_checkpointing=['patch_embed']))
        >>> try:
        ...     check_wrapping(cfg, build_model(cfg))
        ... except UserError as error:
        ...     print(str(error).split('; ')[1])
        name the whole backbone, or set with_cp=True of it instead
    """
    found = {name for name, module in model.named_modules() if isinstance(module, Backbone)}
    backbones = {name for name in found if not any(_is_inside(name, other) for other in found)}
    for name, module in _named(cfg, model, 'activation_checkpointing'):
        # MMEngine takes the form of checkpointing that loses all gradients where the input needs none, as a picture.
        # mmvim's backbones put it right, which the parts of one or a model around it cannot.
        if any(_is_inside(name, backbone) or _is_inside(backbone, name) for backbone in backbones):
            raise UserError(
                f'activation_checkpointing of {name} would stop the gradients of all that needs a picture',
                'name the whole backbone, or set with_cp=True of it instead',
                USAGE,
            )
        if name not in backbones and any(isinstance(part, _BatchNorm) for part in module.modules()):
            warn(
                f'activation_checkpointing of {name} moves the running statistics of its batch norms twice in each '
                'iteration, so that they follow the data faster'
            )
    for name, module in _named(cfg, model, 'efficient_conv_bn_eval'):
        try:
            with quiet():
                turn_on_efficient_conv_bn_eval(nn.ModuleDict({'part': copy.deepcopy(module)}), ['part'])
        except Exception as error:  # whatever tracing the part raises, MMEngine would raise after the start
            raise UserError(
                f'efficient_conv_bn_eval cannot be applied to {name}: {describe(error)}', 'leave it out', USAGE
            ) from error


def _is_inside(name: str, module: str) -> bool:
    """Check whether a module is a part of another one, by their names; '' is the whole model's."""
    return name != module and name.startswith(f'{module}.' if module else '')


def _named(cfg: Config, model: nn.Module, option: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of the model that an option names."""
    names = cfg.get(option) or []
    for name in [names] if isinstance(names, str) else names:
        try:
            yield name, model.get_submodule(name)
        except AttributeError as error:
            parts = ', '.join(part for part, _ in model.named_children())
            raise UserError(
                f'{option} names {name!r}, which the model does not have', f'it has {parts}', USAGE
            ) from error


def _with_preprocessor(cfg: Config) -> dict:
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model


def _inherited(cfg: Config, error: BaseException) -> str | None:
    """Return what to do about a setting that a backbone of mmvim has inherited from that of a stock config."""
    found = _UNKNOWN_ARGUMENT.search(' '.join(str(error).split()))
    backbone = (cfg.get('model') or {}).get('backbone')
    if found is None or not isinstance(backbone, dict):
        return None
    kind = MODELS.get(str(backbone.get('type')))
    if not (isinstance(kind, type) and issubclass(kind, Backbone) and kind.__name__ == found[1]):
        return None
    if found[2] == 'pretrained':  # segmentors and detectors hand theirs on to the backbone
        return (
            "set model.pretrained=None (the base config has another backbone's) and, for weights of this one, "
            "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=FILE)"
        )
    taken = {*inspect.signature(kind).parameters, 'type', '_scope_'}
    return (
        "add _delete_=True to model.backbone, which otherwise keeps settings of the base config's "
        f'({", ".join(name for name in backbone if name not in taken)}), or correct the name'
    )


def _config_problem(error: BaseException) -> str | None:
    """Return what is wrong with the config, or None if the exception does not look like the config's fault.

    A constructor that refuses an argument raises ValueError or AssertionError; other TypeErrors and KeyErrors are bugs.
    """
    text = ' '.join(str(error).split())
    unregistered = re.search(r'([^\s"\']+) is not in the (\S+) registry', text)
    if unregistered:
        return f'type {unregistered[1]!r} is not in the {unregistered[2]} registry'
    unknown = _UNKNOWN_ARGUMENT.search(text)
    if unknown:
        return f'{unknown[1]} has no argument {unknown[2]!r}'
    missing = re.search(r'(\w+)\.__init__\(\) missing \d+ required .*?: (.*)', text)
    if missing:
        return f'{missing[1]} needs the argument {missing[2]}'
    return describe(error) if isinstance(error, (ValueError, AssertionError)) else None
