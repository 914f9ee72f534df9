"""A first build of the model before the runner's own, so that a failure is reported before anything is written."""

import copy
import logging
import re
import warnings

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import nn

from mmvim.cli.config import missing_ops
from mmvim.cli.errors import ENVIRONMENT, UserError, describe


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
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)  # the runner builds it again and logs everything then
    try:
        with MODELS.switch_scope_and_registry(cfg.get('default_scope')) as registry, warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return revert_sync_batchnorm(registry.build(_with_preprocessor(cfg)))
    except ImportError as error:
        if '_ext' in str(error):
            raise missing_ops('the model') from error
        raise UserError(f'the model needs a package: {describe(error)}', 'install it', ENVIRONMENT) from error
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        problem = _config_problem(error)
        if problem is None:
            raise
        raise UserError(
            f'the model cannot be built: {problem}', 'correct the config or --cfg-options (MMVIM_DEBUG=1 shows where)'
        ) from error
    finally:
        logger.setLevel(level)


def _with_preprocessor(cfg: Config) -> dict:
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model


def _config_problem(error: BaseException) -> str | None:
    """Return what is wrong with the config, or None if the exception does not look like the config's fault.

    A constructor that refuses an argument raises ValueError or AssertionError; other TypeErrors and KeyErrors are bugs.
    """
    text = ' '.join(str(error).strip('"\'').split())
    unregistered = re.search(r'(\S+) is not in the (\S+) registry', text)
    if unregistered:
        return f'type {unregistered[1]!r} is not in the {unregistered[2]} registry'
    unknown = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text)
    if unknown:
        return f'{unknown[1]} has no argument {unknown[2]!r}'
    missing = re.search(r'(\w+)\.__init__\(\) missing \d+ required .*?: (.*)', text)
    if missing:
        return f'{missing[1]} needs the argument {missing[2]}'
    return describe(error) if isinstance(error, (ValueError, AssertionError)) else None
