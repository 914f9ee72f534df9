"""What a run reads from checkpoints: the one to test, resume or start from.

It is checked before the runner exists. Whether a file fits is judged by :class:`mmvim.checkpoints.Report` alone.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config
from torch import Tensor, nn

from mmvim import checkpoints
from mmvim.cli.errors import ENVIRONMENT, USAGE, UserError, warn
from mmvim.cli.resume import check_resumed
from mmvim.cli.work_dir import RESUMABLE, last_checkpoint, loadable_beside
from mmvim.engine.hooks.resume import ResumeHook


def is_remote(path: str) -> bool:
    """Check whether a path is fetched from elsewhere (``https://``, ``hf://``, ``open-mmlab://`` ...).

    Args:
        path: The path.

    Examples:
        >>> from mmvim.cli import is_remote
        >>> is_remote('https://example.org/vim.pth'), is_remote('published://work_dirs/vim.pth')
        (True, False)
    """
    return '://' in path and not path.startswith(checkpoints.PUBLISHED)


@contextmanager
def checkpoint_errors() -> Iterator[None]:
    """Raise errors about a checkpoint inside the block as :class:`UserError`.

    Raises:
        UserError: If the checkpoint cannot be read or does not fit.

    Examples:
        >>> from mmvim import checkpoints
        >>> from mmvim.cli import UserError, checkpoint_errors
        >>> try:
        ...     with checkpoint_errors():
        ...         checkpoints.load_file('gone.pth', '--resume gone.pth')
        ... except UserError as error:
        ...     print(error.status)
        1
    """
    try:
        yield
    except checkpoints.CheckpointError as error:
        raise UserError(error.problem, error.remedy, USAGE if error.misfit else ENVIRONMENT) from error


def local_checkpoint(path: str) -> str | None:
    """Return the local file of a checkpoint, downloaded if need be; None for the kinds that only MMEngine fetches.

    Args:
        path: A path or an address.

    Raises:
        UserError: If it cannot be fetched.

    Examples:
        >>> from mmvim.cli import local_checkpoint
        >>> local_checkpoint('work_dirs/iter_1000.pth'), local_checkpoint('open-mmlab://resnet50')
        ('work_dirs/iter_1000.pth', None)
    """
    if not checkpoints.can_fetch(path):
        return None
    with checkpoint_errors():
        return checkpoints.fetch(path)


def read_checkpoint(path: str, option: str) -> dict:
    """Read a checkpoint as plain weights, mapped from the file where its format allows.

    Args:
        path: A local file.
        option: What the user calls it, for messages.

    Returns:
        What the file holds.

    Raises:
        UserError: If the file is missing, is not a checkpoint, is truncated, or holds objects that are not weights.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim.cli import read_checkpoint
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'state_dict': {'weight': torch.ones(2)}}, file.name)
        ...     read_checkpoint(file.name, '--resume')
        {'state_dict': {'weight': tensor([1., 1.])}}
    """
    if not os.path.exists(os.path.expanduser(path)):
        raise UserError(f'{option} {path} does not exist', 'give a checkpoint file')
    with checkpoint_errors():
        return checkpoints.load_file(path, f'{option} {path}')


def read_resumed(path: str) -> dict:
    """Read a checkpoint to resume from, and check all its bytes: a run that goes on from wrong ones is lost.

    Args:
        path: A local file.

    Returns:
        What the file holds.

    Raises:
        UserError: If the file is missing or damaged; the message names the last one in its folder that can be resumed.

    Examples:
        >>> from mmvim.cli import UserError
        >>> from mmvim.cli.weights import read_resumed
        >>> try:
        ...     read_resumed('gone.pth')
        ... except UserError as error:
        ...     print(error)
        --resume gone.pth does not exist; give a checkpoint file
    """
    try:
        checkpoint = read_checkpoint(path, '--resume')
        with checkpoint_errors():
            checkpoints.check_bytes(path, f'--resume {path}')
        return checkpoint
    except UserError as error:
        other = loadable_beside(path)
        if other is None:
            raise
        problem = str(error).rpartition('; ')[0]
        raise UserError(
            problem, f'the last one there that can be resumed is {other}: --resume {other}', error.status
        ) from error


def check_fit(model: nn.Module, checkpoint: dict, path: str, option: str, complete: bool) -> str:
    """Check that a checkpoint is of this model, whoever published it.

    With ``complete`` it is loaded into the model, so that the model's own hooks (resizing, renaming) apply; weights
    beyond the model's give a warning.

    Args:
        model: The model, as :func:`build_model` returns it.
        checkpoint: What :func:`read_checkpoint` returned.
        path: The file.
        option: What the user calls it, for messages.
        complete: Whether every weight of the model must be there: True to test or resume, False to start training from.

    Returns:
        The path that makes MMEngine's runner load the weights that were checked: the file's own, or that behind
        ``published://``.

    Raises:
        UserError: If it holds no tensors where they are expected, some that are not finite, or none that the model can
            use, or if most of those of the same names have other shapes; with ``complete``, if a weight is missing or
            has another shape.

    Examples:
        >>> import torch
        >>> from mmvim.cli import UserError, check_fit
        >>> model = torch.nn.Linear(2, 1)
        >>> check_fit(model, {'state_dict': model.state_dict()}, 'a.pth', '--resume', complete=True)
        'a.pth'
        >>> try:
        ...     check_fit(model, {'state_dict': {'bias': torch.ones(1)}}, 'b.pth', '--resume', complete=True)
        ... except UserError as error:
        ...     print(str(error).split('; ')[0])
        --resume b.pth (as weights of this Linear) does not fit: it lacks 1 weights (weight)
    """
    kind, own = type(model).__name__, model.state_dict()
    report = checkpoints.Report(f'{option} {path}', f'as weights of this {kind}')
    with checkpoint_errors():
        weights, _ = checkpoints.model_weights(checkpoint, report.source)
    given = _load(model, own, weights) if complete else weights
    report.fresh = {
        name: 'serves training only' for name in own if name.startswith('auxiliary_head') and name not in given
    }
    report.compare(own, given)
    if complete and report.unexpected and not (report.missing or report.mismatched):
        extra, report.unexpected = report.unexpected, []
        warn(f'{report.source} has {len(extra)} weights that this {kind} does not use, e.g. {extra[0]}')
    if complete or not report.used:  # else MMEngine loads what fits, and logs what does not
        try:
            report.check()
        except checkpoints.CheckpointError as error:
            raise UserError(error.problem, 'give the config that it was trained with', USAGE) from error
    if not complete and len(report.used) < len(report.mismatched):  # MMEngine would start nearly from scratch
        shared, (name, shapes) = len(report.used) + len(report.mismatched), next(iter(report.mismatched.items()))
        raise UserError(
            f'{report.source} is of a model of another size: of the {shared} weights that both have, '
            f'{len(report.mismatched)} differ in shape, the first {name}: {shapes}',
            'give the config that it was trained with, or leave it out',
            USAGE,
        )
    if not complete and report.mismatched:
        name, shapes = next(iter(report.mismatched.items()))
        warn(
            f'{report.source}: {len(report.mismatched)} of its weights have another shape and are left out, the first '
            f'{name}: {shapes}'
        )
    native = checkpoints.is_native(checkpoint, weights)
    return path if native else checkpoints.PUBLISHED + os.path.abspath(path)


def _load(model: nn.Module, own: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """Load weights, and return them as the model's hooks have made them, by the names that they arrived under."""
    try:
        result = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        wrong = {name: value for name, value in weights.items() if f'size mismatch for {name}:' in str(error)}
        if not wrong:
            raise
        return {**own, **wrong}
    lacking, extra = set(result.missing_keys), dict.fromkeys(result.unexpected_keys)
    same = {name for name, value in weights.items() if name in own and value.shape == own[name].shape}
    return {name: weights[name] if name in same else own[name] for name in own if name not in lacking} | extra


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


def check_start(cfg: Config, model: nn.Module, resume_with: str | None = None) -> ResumeHook:
    """Check the checkpoint that a run resumes or starts from, and adopt the seed of one that is resumed.

    MMEngine builds the data loader before it reads the checkpoint. Unless the config fixes a seed, the order of the
    data would otherwise start from another seed than the interrupted run's.

    Args:
        cfg: The config; ``load_from`` becomes what MMEngine reads, ``randomness`` gets the seed.
        model: The model, as :func:`build_model` returns it.
        resume_with: Whose schedule a resumed run follows, see :func:`mmvim.cli.resume.check_resumed`. Defaults to None,
            the user has not said.

    Returns:
        The hook that keeps what a later run needs to resume, and makes this one resume as the user wants.

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
    if resume_with and not cfg.get('resume'):
        raise UserError(
            f'--resume-with {resume_with} says how to resume, but nothing is resumed', 'add --resume', USAGE
        )
    if cfg.get('resume') and cfg.get('load_from') and os.path.isdir(cfg.load_from):
        return _check_sharded(cfg.load_from, resume_with)
    path = cfg.get('load_from') and local_checkpoint(cfg.load_from)
    if not path:
        return ResumeHook()
    option = '--resume' if cfg.get('resume') else 'load_from'
    checkpoint = read_resumed(path) if cfg.get('resume') else read_checkpoint(path, option)
    cfg.load_from = check_fit(model, checkpoint, path, option, complete=bool(cfg.get('resume')))
    if not cfg.get('resume'):
        return ResumeHook()
    lacking = [key for key in RESUMABLE if key not in checkpoint]
    if lacking:
        raise UserError(
            f'--resume {path} holds weights only (no {lacking[0]})',
            f'start from them instead: --cfg-options load_from={path}',
        )
    cfg.load_from = path
    seed = checkpoint['meta'].get('seed')
    randomness = dict(cfg.get('randomness') or {})
    if seed is not None and randomness.get('seed') is None:
        cfg.randomness = dict(randomness, seed=seed)
    return check_resumed(cfg, model, checkpoint, path, resume_with)


def _check_sharded(folder: str, resume_with: str | None) -> ResumeHook:
    """Check this process's part of a sharded checkpoint, which only as many processes as saved it can resume."""
    if resume_with == 'config':
        raise UserError(
            f'--resume-with config needs a checkpoint in one file, and --resume {folder} is a folder of parts',
            'leave it out',
            USAGE,
        )
    parts = sorted(name for name in os.listdir(folder) if name.startswith('rank') and name.endswith('.pth'))
    own = parts  # all of them, where one process checks for the others
    if 'WORLD_SIZE' in os.environ:
        size, own = int(os.environ['WORLD_SIZE']), [f'rank{os.environ["RANK"]}.pth']
        if own[0] not in parts or f'rank{size}.pth' in parts:
            raise UserError(
                f'--resume {folder} holds {len(parts)} parts of a sharded checkpoint, and there are {size} processes',
                'resume on as many processes, each with its part on its disk',
            )
    if not own:
        raise UserError(f'--resume {folder} holds no part of a checkpoint (rank0.pth ...)', 'give another')
    for name in own:
        part = os.path.join(folder, name)
        with checkpoint_errors():  # its tensors can be read in a group of processes only, which there is not yet
            checkpoints.check_bytes(part, f'--resume {part}')
    return ResumeHook()
