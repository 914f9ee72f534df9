"""Reading of a config, what it needs to be installed, and the settings that follow from the command line alone."""

import argparse
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from mmvim.cli.errors import ENVIRONMENT, UserError, describe, warn
from mmvim.cli.noise import quiet
from mmvim.cli.options import merge_options
from mmvim.cli.recipes import find_config

SUFFIXES = ('.py', '.json', '.yaml', '.yml')

# What to install for a default_scope, in the words of the README's installation section.
_EXTRAS = {'mmseg': 'pip install "mmvim[seg]"', 'mmdet': 'pip install "mmvim[det]"'}

# Two versions of each: the maintained package's (onedl-*) and the original's, which share an import name.
TESTED = {
    'mmengine': ('0.10.12', '0.10.7'),
    'mmcv': ('2.3.6', '2.1.0'),
    'mmseg': ('1.4.2', '1.2.2'),
    'mmdet': ('3.5.1', '3.3.0'),
}


def load_config(filename: str, options: dict | None = None) -> Config:
    """Read a config with its bases and merge ``--cfg-options`` into it.

    Args:
        filename: Path of the config, or the name of one of mmvim's.
        options: Dotted keys and their values. Defaults to None.

    Returns:
        The merged config.

    Raises:
        UserError: If the file or a base is missing, cannot be executed or is only a fragment, if the library of its
            ``default_scope`` cannot be imported, or if an option names a key that nothing reads.

    Examples:
        >>> import os, tempfile
        >>> from mmvim.cli import load_config
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, 'vim.py')
        ...     with open(path, 'w') as file:
        ...         print("default_scope = 'mmvim'; model = dict(type='Vim', drop_path_rate=0.1)", file=file)
        ...     load_config(path, {'model.drop_path_rate': 0.2}).model.drop_path_rate
        0.2
    """
    cfg = read_config(filename)
    check_scope(cfg.get('default_scope'))
    cfg = merge_options(cfg, options or {})
    if isinstance(cfg.get('randomness'), dict):
        cfg.randomness.setdefault('seed', None)  # as MMEngine has it where there is no ``randomness`` at all
    return cfg


def read_config(filename: str) -> Config:
    """Read a config with its bases.

    Args:
        filename: Path of the config, or the name of one of mmvim's.

    Raises:
        UserError: If the file or a base is missing, cannot be executed or is only a fragment.

    Examples:
        >>> from mmvim.cli import UserError
        >>> from mmvim.cli.config import read_config
        >>> try:
        ...     read_config('upernet_vin_t_ade20k')
        ... except UserError as error:
        ...     print(str(error).split(' or ')[0])
        config upernet_vin_t_ade20k does not exist; did you mean upernet_vim_t_ade20k
    """
    path = find_config(filename)
    if path.suffix not in SUFFIXES:
        raise UserError(f'config {filename} does not end in {", ".join(SUFFIXES)}', 'CONFIG comes first')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is the user's program: whatever it raises is theirs to fix
        raise UserError(
            f'cannot read config {filename}: {describe(error)}',
            'correct the file or its _base_ (MMVIM_DEBUG=1 shows where)',
        ) from error
    if not isinstance(cfg.get('model'), dict):
        raise UserError(f'config {filename} has no model', 'it is a fragment; give a config that inherits it')
    return cfg


def check_scope(scope: str | None) -> None:
    """Import the library that ``default_scope`` names.

    MMEngine would hide a failure behind "... is not in the registry".

    Args:
        scope: ``default_scope`` of the config.

    Raises:
        UserError: If it is None, or the library is missing or fails to import.

    Examples:
        >>> from mmvim.cli import UserError
        >>> from mmvim.cli.config import check_scope
        >>> try:
        ...     check_scope('mmfoo')
        ... except UserError as error:
        ...     print(error)
        default_scope is 'mmfoo', but mmfoo is not installed; install the library of that name
    """
    if scope is None:
        raise UserError('the config sets no default_scope', "add default_scope = 'mmseg' or 'mmdet' to it")
    if find_spec(scope) is None:
        remedy = _EXTRAS.get(scope, 'install the library of that name')
        raise UserError(f'default_scope is {scope!r}, but {scope} is not installed', remedy, ENVIRONMENT)
    try:
        with quiet():  # some tell of each optional package that is not installed
            for module in ('mmcv', scope, f'{scope}.registry', f'{scope}.models', f'{scope}.datasets'):
                if find_spec(module) is not None:
                    import_module(module)
    except (ImportError, AssertionError) as error:  # AssertionError: their own check of mmcv's version
        if 'mmcv._ext' in str(error):
            raise missing_ops(scope) from error
        remedy = f'{_EXTRAS.get(scope, "install what it needs")} (MMVIM_DEBUG=1 shows where it fails)'
        raise UserError(f'{scope} cannot be imported: {describe(error)}', remedy, ENVIRONMENT) from error


def missing_ops(who: str) -> UserError:
    """Return the error to raise where ``mmcv._ext`` is needed and missing.

    Args:
        who: What needs it.

    Examples:
        >>> from mmvim.cli.config import missing_ops
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
        >>> from mmvim.cli import check_compiled_ops
        >>> check_compiled_ops(Config(dict(default_scope='mmseg')))  # does not need them
    """
    if cfg.get('default_scope') == 'mmdet' and find_spec('mmcv._ext') is None:
        raise missing_ops('mmdet')


def untested() -> list[str]:
    """Return name and version of each installed package whose version is not in :data:`TESTED`.

    Examples:
        >>> from unittest import mock
        >>> from mmvim.cli import config
        >>> with mock.patch.dict(config.TESTED, {'mmengine': ('0.1',)}, clear=True):
        ...     [name.split()[0] for name in config.untested()]
        ['mmengine']
    """
    found = []
    for name, versions in TESTED.items():
        try:
            version = getattr(import_module(name), '__version__', 'unknown')
        except ImportError:
            continue
        if version not in versions:
            found.append(f'{name} {version}')
    return found


def warn_if_untested() -> None:
    """Print one warning line that names the packages of :func:`untested`, if there are any.

    Examples:
        >>> from unittest import mock
        >>> import mmengine
        >>> from mmvim.cli import config, warn_if_untested
        >>> with mock.patch.dict(config.TESTED, {'mmengine': (mmengine.__version__,)}, clear=True):
        ...     warn_if_untested()  # prints nothing: this version is tested
    """
    names = untested()
    if names:
        tested = '; '.join(f'{name} {" or ".join(versions)}' for name, versions in TESTED.items())
        warn(f'not tested with {", ".join(names)} (tested: {tested})')


def set_work_dir(cfg: Config, args: argparse.Namespace) -> None:
    """Set ``work_dir`` from the command line, else the config, else to ``work_dirs/<config name>``; create nothing.

    Args:
        cfg: The config, changed in place.
        args: The parsed command line, with ``config`` and ``work_dir``.

    Raises:
        UserError: If the path is taken by something that is not a directory, or is not writable.

    Examples:
        >>> import argparse
        >>> from mmengine.config import Config
        >>> from mmvim.cli import set_work_dir
        >>> cfg = Config()
        >>> set_work_dir(cfg, argparse.Namespace(config='configs/vim/upernet_vim_t.py', work_dir=None))
        >>> cfg.work_dir
        'work_dirs/upernet_vim_t'
    """
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        name = Path(args.config)
        cfg.work_dir = os.path.join('work_dirs', name.stem if name.suffix in SUFFIXES else name.name)
    work_dir = Path(cfg.work_dir)
    taken = next((p for p in (work_dir, *work_dir.parents) if p.exists()), None)
    if taken is not None and not taken.is_dir():
        raise UserError(f'work dir {work_dir} cannot be made: {taken} is a file', 'pass another --work-dir')
    if taken is not None and not os.access(taken, os.W_OK):
        raise UserError(f'work dir {work_dir} cannot be made: {taken} is not writable', 'pass another --work-dir')
