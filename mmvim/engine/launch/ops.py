"""mmcv's compiled operators, which a wheel of mmcv may lack."""

from importlib.util import find_spec

from mmengine.config import Config

from mmvim.engine.launch.errors import ENVIRONMENT, UserError


def missing_ops(who: str) -> UserError:
    """Return the error to raise where ``mmcv._ext`` is needed and missing.

    Args:
        who: What needs it.

    Examples:
        >>> from mmvim.engine.launch.ops import missing_ops
        >>> str(missing_ops('mmdet')).split(';')[0]
        'mmdet needs the compiled ops of mmcv (mmcv._ext), and this mmcv has none'
    """
    return UserError(
        f'{who} needs the compiled ops of mmcv (mmcv._ext), and this mmcv has none',
        'build it with them: MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir --force-reinstall '
        '--no-deps onedl-mmcv (or mmcv)',
        ENVIRONMENT,
    )


def check_compiled_ops(cfg: Config) -> None:
    """Check that mmcv has its compiled operators if the config is mmdet's, whose heads call NMS and RoIAlign.

    Args:
        cfg: The config.

    Raises:
        UserError: If ``default_scope`` is mmdet and ``mmcv._ext`` is missing.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.engine.launch import check_compiled_ops
        >>> check_compiled_ops(Config(dict(default_scope='mmseg')))  # does not need them
    """
    if cfg.get('default_scope') == 'mmdet' and find_spec('mmcv._ext') is None:
        raise missing_ops('mmdet')
