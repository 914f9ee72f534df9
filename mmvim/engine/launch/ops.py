"""mmcv's compiled operators, which a wheel of mmcv may lack."""

from importlib.util import find_spec

from mmengine.config import Config

from mmvim.engine.launch.errors import ENVIRONMENT, UserError


def missing_ops(who: str) -> UserError:
    """The error to raise where ``mmcv._ext`` is needed and missing.

    Args:
        who (str): What needs it.
    """
    return UserError(
        f'{who} needs the compiled ops of mmcv (mmcv._ext), and this mmcv has none',
        'build it with them: MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir --force-reinstall '
        '--no-deps onedl-mmcv (or mmcv)',
        ENVIRONMENT,
    )


def check_compiled_ops(cfg: Config) -> None:
    """MMDetection's heads call NMS and RoIAlign out of mmcv's compiled part.

    Raises:
        UserError: If ``default_scope`` is mmdet and ``mmcv._ext`` is missing.
    """
    if cfg.get('default_scope') == 'mmdet' and find_spec('mmcv._ext') is None:
        raise missing_ops('mmdet')
