"""Words of other libraries that tell the user of a tool nothing: what a start prints beside them would be overlooked.

Only the sentences below are left out, each of a library that says it whatever the config; every other warning stays.
``MMVIM_DEBUG=1`` and Python's own ``-W`` and ``PYTHONWARNINGS`` let all of them through.
"""

import contextlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mmvim.cli.errors import DEBUG_VARIABLE

# How they begin. The first are Python warnings, the others records of MMEngine's logger.
_WARNINGS = (
    'Default ``avg_non_ignore`` is False',  # mmseg, of its most common loss
    'The draw is False, it means that the hook for visualization',  # mmseg, of its own default
    '`reduce_zero_label` will be deprecated',  # mmseg, of its own base configs
    '``build_loss`` would be deprecated soon',  # the original mmseg, of its own heads
    'faster_coco_eval is not installed',  # onedl-mmdetection, of a metric that nobody asked for
    'Fail to import ``MultiScaleDeformableAttention``',  # mmcv-lite
    'torch.meshgrid: in an upcoming release',  # PyTorch, of mmdet's code
    '`torch.jit.',  # PyTorch, of its own functions
)
_RECORDS = (
    'Line NMS is not compiled',  # onedl-mmdetection, of a head that the model does not have
    '"FileClient" will be deprecated',  # MMEngine, of its own hook
    '"HardDiskBackend" is the alias of',
    'The prefix is not set in metric class',  # of every metric without one
    'Distributed training is not used, all SyncBatchNorm',
    '`save_param_scheduler` is True but `self.param_schedulers` is None',
)


def _wanted() -> bool:
    return bool(sys.warnoptions) or os.environ.get(DEBUG_VARIABLE, '0') not in ('', '0')


def silence_warnings() -> None:
    """Leave out what libraries warn of whatever the config, in this process and its data workers.

    Examples:
        >>> import warnings
        >>> from mmvim.cli.noise import silence_warnings
        >>> with warnings.catch_warnings(record=True) as found:
        ...     warnings.simplefilter('always')
        ...     silence_warnings()
        ...     warnings.warn('`reduce_zero_label` will be deprecated, ...')
        ...     warnings.warn('something of interest')
        >>> [str(warning.message) for warning in found]
        ['something of interest']
    """
    if not _wanted():
        for words in _WARNINGS:
            warnings.filterwarnings('ignore', message=re.escape(words))


class NoiseFilter(logging.Filter):
    """A filter for MMEngine's logger that leaves out what is logged whatever the config.

    Examples:
        >>> import logging
        >>> from mmvim.cli.noise import NoiseFilter
        >>> texts = ('"FileClient" will be deprecated in future.', 'Epoch 1')
        >>> [NoiseFilter().filter(logging.makeLogRecord({'msg': text})) for text in texts]
        [False, True]
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged."""
        return _wanted() or not str(record.msg).startswith(_RECORDS)


@contextmanager
def quiet() -> Iterator[None]:
    """Log errors only, warn of nothing and print nothing in a block that the runner repeats, logging everything then.

    Examples:
        >>> from mmengine.logging import MMLogger
        >>> from mmvim.cli.noise import quiet
        >>> with quiet():
        ...     print('loading annotations into memory...')
        ...     level = MMLogger.get_current_instance().level
        >>> level
        40
    """
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)
