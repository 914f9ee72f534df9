"""The meaning of ``--resume``, and what a run needs from its checkpoint before it starts."""

import os
from pathlib import Path

from mmengine.config import Config
from torch import nn

from mmvim.cli.errors import ENVIRONMENT, UserError, warn
from mmvim.cli.weights import (
    check_fit,
    is_remote,
    local_checkpoint,
    read_checkpoint,
    runner_checkpoint,
    state_dict_of,
)


def set_resume(cfg: Config, resume: str | None) -> None:
    """Set ``resume`` and ``load_from`` of a config.

    ``auto`` takes the last checkpoint of the work dir. If there is none, training starts as without ``--resume`` (with
    the config's ``load_from``), so that the same command can be run again after an interruption.

    Args:
        cfg: The config with its final work dir, changed in place.
        resume: A checkpoint, 'auto', or None to do as the config says.

    Raises:
        UserError: If the work dir names a last checkpoint that does not exist.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli import set_resume
        >>> cfg = Config(dict(work_dir='work_dirs/vim'))
        >>> set_resume(cfg, 'work_dirs/vim/iter_1000.pth')
        >>> cfg.resume, cfg.load_from
        (True, 'work_dirs/vim/iter_1000.pth')
    """
    if resume is None and not (cfg.get('resume') and cfg.get('load_from') is None):
        return
    if resume not in (None, 'auto'):
        cfg.resume, cfg.load_from = True, resume
        return
    latest = last_checkpoint(cfg.work_dir)
    cfg.resume = latest is not None
    if latest is None:
        warn(f'--resume: no checkpoint in {cfg.work_dir}: starting at iteration 0')
    else:
        cfg.load_from = latest


def last_checkpoint(work_dir: str) -> str | None:
    """Return the checkpoint that the file ``last_checkpoint`` of a work dir names, even if the work dir was moved.

    Args:
        work_dir: The work dir.

    Returns:
        Its path; None if the work dir has no such file.

    Raises:
        UserError: If the checkpoint itself is gone.

    Examples:
        >>> import tempfile
        >>> from mmvim.cli.resume import last_checkpoint
        >>> with tempfile.TemporaryDirectory() as work_dir:
        ...     print(last_checkpoint(work_dir))
        None
    """
    note = Path(work_dir) / 'last_checkpoint'
    if not note.is_file():
        return None
    named = note.read_text().strip()
    beside = Path(work_dir) / Path(named).name
    if beside.is_file():
        return str(beside)
    if is_remote(named) or os.path.isfile(named):
        return named
    raise UserError(
        f'{note} names {named}, which does not exist',
        f'give the checkpoint with --resume PATH, or remove {note} to start anew',
        ENVIRONMENT,
    )


def check_start(cfg: Config, model: nn.Module) -> None:
    """Check the checkpoint that a run resumes or starts from, and adopt the seed of one that is resumed.

    MMEngine builds the data loader before it reads the checkpoint. Unless the config fixes a seed, the order of the
    data would otherwise start from another seed than the interrupted run's.

    Args:
        cfg: The config; ``load_from`` becomes what MMEngine reads, ``randomness`` gets the seed.
        model: The model, as :func:`build_model` returns it.

    Raises:
        UserError: If the file is missing, damaged or of another model, or cannot be resumed.

    Examples:
        >>> from mmengine.config import Config
        >>> from torch import nn
        >>> from mmvim.cli import UserError, check_start
        >>> try:
        ...     check_start(Config(dict(resume=True, load_from='gone.pth')), nn.Identity())
        ... except UserError as error:
        ...     print(error)
        --resume gone.pth does not exist; give a checkpoint file
    """
    path = cfg.get('load_from') and local_checkpoint(cfg.load_from)
    if not path:
        return
    option = '--resume' if cfg.get('resume') else 'load_from'
    checkpoint = read_checkpoint(path, option)
    weights = state_dict_of(checkpoint, path, option)
    check_fit(model, weights, path, option, complete=bool(cfg.get('resume')))
    if not cfg.get('resume'):
        cfg.load_from = runner_checkpoint(path, checkpoint, weights)
        return
    cfg.load_from = path
    lacking = [key for key in ('meta', 'message_hub', 'optimizer') if key not in checkpoint]
    if lacking:
        raise UserError(
            f'--resume {path} holds weights only (no {lacking[0]})',
            f'start from them instead: --cfg-options load_from={path}',
        )
    seed = checkpoint['meta'].get('seed')
    randomness = dict(cfg.get('randomness') or {})
    if seed is not None and randomness.get('seed') is None:
        cfg.randomness = dict(randomness, seed=seed)
