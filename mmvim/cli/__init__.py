"""The command line: what the tools share, and the commands of ``mmvim``.

A tool reads the command, checks what it needs and reports what is wrong. Every check runs before a runner exists and
before anything is written, and raises :class:`UserError`, which a tool prints as one line.

The names below are imported from their files when they are first asked for, so that ``mmvim --help`` need not wait for
PyTorch.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    'arguments': (
        'ConversionParser',
        'OptionsAction',
        'add_run_arguments',
        'config_parser',
        'publish_local_rank',
    ),
    'config': ('check_compiled_ops', 'load_config', 'set_work_dir', 'warn_if_untested'),
    'data': ('check_data',),
    'errors': ('ENVIRONMENT', 'USAGE', 'OneLineParser', 'UserError', 'run_tool', 'warn'),
    'evaluation': ('set_output', 'set_tta', 'set_visualization'),
    'machine': (
        'check_launcher',
        'has_accelerator',
        'keep_freed_memory',
        'prepare_cpu_distribution',
        'set_precision',
    ),
    'model': ('build_model',),
    'pretrained': ('check_pretrained',),
    'recipes': ('find_config', 'published'),
    'weights': (
        'check_fit',
        'check_start',
        'checkpoint_errors',
        'is_remote',
        'local_checkpoint',
        'read_checkpoint',
        'set_resume',
    ),
}
_FILES = {name: file for file, names in _NAMES.items() for name in names}
__all__ = sorted(_FILES)


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_FILES[name]}'), name)
