"""What ``--resume`` means, and what a run needs from the checkpoint it resumes before it starts."""

import os
from pathlib import Path

from mmengine.config import Config
from torch import nn

from mmvim.engine.launch.errors import ENVIRONMENT, UserError, warn
from mmvim.engine.launch.weights import (
    check_fit,
    is_remote,
    local_checkpoint,
    read_checkpoint,
    runner_checkpoint,
    state_dict_of,
)


def set_resume(cfg: Config, resume: str | None) -> None:
    """Settle ``resume`` and ``load_from``.

    ``auto`` takes the last checkpoint of the work dir; if there is none, training starts as without ``--resume``
    (with the config's ``load_from``), so that a command which is run again after an interruption need not change.

    Args:
        cfg (Config): The config with its work dir settled, changed in place.
        resume (str, optional): A checkpoint, 'auto', or None to do as the config says.

    Raises:
        UserError: If the work dir names a last checkpoint that does not exist.
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
    """The checkpoint that ``last_checkpoint`` in a work dir names; a work dir may have been moved since.

    Args:
        work_dir (str): The work dir.

    Returns:
        str, optional: None if the work dir has no such file.

    Raises:
        UserError: If the checkpoint itself is gone.
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
    """Check the checkpoint that a run resumes or starts from, and take over the seed of a resumed one.

    MMEngine builds the data loader before it reads the checkpoint: without this the order of the data would start from
    another seed than the interrupted run's, unless the config fixes one.

    Args:
        cfg (Config): The config; ``load_from`` becomes what MMEngine reads, ``randomness`` gets the seed.
        model (nn.Module): The model, built for this purpose.

    Raises:
        UserError: If the file is missing, damaged or of another model, or cannot be resumed.
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
