"""What `mmvim visualize` works on: a picture, and a backbone or a whole model with or without its weights."""

import argparse
import copy
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmvim import checkpoints
from mmvim.cli.arguments import OptionsAction
from mmvim.cli.config import check_compiled_ops, load_config
from mmvim.cli.errors import UserError, warn
from mmvim.cli.model import build_model
from mmvim.cli.noise import quiet
from mmvim.cli.weights import check_fit, checkpoint_errors, local_checkpoint, read_checkpoint
from mmvim.deploy.predict import bilinear, normalise, read_picture
from mmvim.deploy.recipe import IMAGENET, config_preprocessing

LARGEST = 512  # pixels of the longer side, unless a size is given
_NAMED = re.compile(r'(\w+):([\w\-.]+)')
_WEIGHTS = ('.pth', '.pt', '.bin', '.safetensors', '.tar', '.ckpt')


class Subject(NamedTuple):
    """A model to look into.

    Attributes:
        model: In evaluation mode, on the CPU.
        name: What to call it.
        recipe: How its pictures are normalised, as :func:`mmvim.deploy.recipe.config_preprocessing` says it.
        classes: Names of its classes, or None.

    Examples:
        >>> from torch import nn
        >>> from mmvim.cli.pictures import Subject
        >>> Subject(nn.Identity(), 'nothing', {}, None).name
        'nothing'
    """

    model: nn.Module
    name: str
    recipe: dict[str, Any]
    classes: list[str] | None


def add_model_arguments(parser: argparse.ArgumentParser, weights: bool = False) -> None:
    """Add what names a model and its weights to a parser.

    Args:
        parser: The parser, changed in place.
        weights: Whether the model may be a published classifier's file. Defaults to False: a backbone is wanted.

    Examples:
        >>> from mmvim.cli import OneLineParser
        >>> from mmvim.cli.pictures import add_model_arguments
        >>> parser = OneLineParser()
        >>> add_model_arguments(parser)
        >>> parser.parse_args(['Vim:tiny', '--out-indices', '0', '23']).out_indices
        [0, 23]
    """
    what = (
        'or the file of a published classifier'
        if weights
        else "or TYPE:ARCH for a backbone of mmvim's alone, e.g. Vim:tiny"
    )
    parser.add_argument('model', metavar='MODEL', help=f"a config, the name of one of mmvim's, {what}")
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='override settings of the config; of TYPE:ARCH, model.NAME=VALUE',
    )
    parser.add_argument('--checkpoint', metavar='FILE', help='weights. Defaults to untrained ones')
    parser.add_argument('--seed', type=int, default=0, help='of untrained weights and noise. Defaults to 0')
    if not weights:
        parser.add_argument(
            '--out-indices',
            type=int,
            nargs='+',
            metavar='N',
            help="blocks or stages whose outputs are looked at. Defaults to the config's",
        )


def add_picture_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``--picture`` and ``--size`` to a parser.

    Args:
        parser: The parser, changed in place.
        required: Whether there must be a picture. Defaults to True.

    Examples:
        >>> from mmvim.cli import OneLineParser
        >>> from mmvim.cli.pictures import add_picture_arguments
        >>> parser = OneLineParser()
        >>> add_picture_arguments(parser)
        >>> parser.parse_args(['--picture', 'a.png', '--size', '224', '320']).size
        [224, 320]
    """
    parser.add_argument('--picture', required=required, metavar='FILE')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help=f'what the picture is resized to. Defaults to its own size, the longer side at most {LARGEST}',
    )


def load_picture(file: str, size: list[int] | None) -> np.ndarray:
    """Read a picture and resize it.

    Args:
        file: The picture.
        size: Height and width; None for its own, the longer side at most 512.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        UserError: If it cannot be read, or the size is not positive.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> from mmvim.cli.pictures import load_picture
        >>> with tempfile.NamedTemporaryFile(suffix='.png') as file:
        ...     Image.new('RGB', (1024, 256)).save(file.name)
        ...     load_picture(file.name, None).shape, load_picture(file.name, [30, 40]).shape
        ((128, 512, 3), (30, 40, 3))
    """
    if size is not None and min(size) < 1:
        raise UserError(f'--size {size[0]} {size[1]} is not two positive numbers', 'give a height and a width')
    try:
        picture = read_picture(file)
    except ValueError as error:
        problem, _, remedy = str(error).partition('; ')
        raise UserError(f'--picture: {problem}', remedy or 'give a PNG or a JPEG') from error
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise UserError(f'--picture {file} has shape {picture.shape}, not three colours', 'give a PNG or a JPEG')
    height, width = picture.shape[:2]
    if size is None:
        scale = min(1.0, LARGEST / max(height, width))
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
    while min(picture.shape[0] / size[0], picture.shape[1] / size[1]) >= 2:  # halves smooth, bilinear alone does not
        rows, columns = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
        blocks = picture[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2, 3)
        picture = blocks.mean((1, 3)).round().astype(np.uint8)
    return np.rint(bilinear(picture, (size[0], size[1]))).astype(np.uint8)


def as_input(picture: np.ndarray, recipe: dict[str, Any]) -> Tensor:
    """Return a picture as a model gets it, float32 (1, 3, H, W).

    Args:
        picture: (H, W, 3) uint8, RGB.
        recipe: See :class:`Subject`.

    Examples:
        >>> import numpy as np
        >>> from mmvim.cli.pictures import as_input
        >>> from mmvim.deploy.recipe import IMAGENET
        >>> as_input(np.zeros((4, 6, 3), np.uint8), IMAGENET).shape
        torch.Size([1, 3, 4, 6])
    """
    return torch.from_numpy(normalise(picture, recipe))[None]


def _config(args: argparse.Namespace) -> Config:
    """Return the config that MODEL names, or one of the backbone alone that it names."""
    named = _NAMED.fullmatch(args.model)
    if named is None or os.path.exists(args.model):
        return load_config(args.model, args.cfg_options)
    cfg = Config({'model': {'type': f'mmvim.{named[1]}', 'arch': named[2]}})
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    return cfg


def load_backbones(args: argparse.Namespace) -> tuple[Subject, Subject | None]:
    """Build the backbone that the command line names.

    Args:
        args: Of a parser with :func:`add_model_arguments`.

    Returns:
        The backbone with untrained weights; and with those of ``--checkpoint``, or None without one.

    Raises:
        UserError: If the config, an option or the checkpoint is wrong.

    Examples:
        >>> import argparse
        >>> from mmvim.cli.pictures import load_backbones
        >>> args = argparse.Namespace(model='Vim:tiny', cfg_options=None, checkpoint=None, seed=0, out_indices=[0])
        >>> untrained, trained = load_backbones(args)
        >>> untrained.name, len(untrained.model.layers), trained
        ('Vim:tiny', 1, None)
    """
    cfg = _config(args)
    settings = copy.deepcopy(dict(cfg.model.get('backbone') or cfg.model))
    settings.pop('init_cfg', None)
    if args.out_indices is not None:
        settings['out_indices'] = tuple(args.out_indices)
    alone = Config({'model': settings, 'default_scope': cfg.get('default_scope')})
    torch.manual_seed(args.seed)
    untrained = build_model(alone)
    if hasattr(untrained, 'init_weights'):
        with quiet():
            untrained.init_weights()
    named = args.model if _NAMED.fullmatch(args.model) else f'{type(untrained).__name__} of {Path(args.model).stem}'
    subject = Subject(untrained.eval(), named, config_preprocessing(cfg), None)
    if args.checkpoint is None:
        return subject, None
    trained = copy.deepcopy(untrained)
    with checkpoint_errors():
        checkpoints.load_backbone(trained, args.checkpoint)
    return subject, subject._replace(model=trained.eval())


def load_backbone(args: argparse.Namespace) -> Subject:
    """Build the backbone that the command line names, with its weights; warn if they are untrained.

    Args:
        args: Of a parser with :func:`add_model_arguments`.

    Raises:
        UserError: If the config, an option or the checkpoint is wrong.

    Examples:
        >>> import argparse, contextlib, sys
        >>> from mmvim.cli.pictures import load_backbone
        >>> args = argparse.Namespace(model='Vim:tiny', cfg_options=None, checkpoint=None, seed=0, out_indices=[0])
        >>> with contextlib.redirect_stderr(sys.stdout):
        ...     subject = load_backbone(args)
        warning: no --checkpoint: the weights are untrained
    """
    untrained, trained = load_backbones(args)
    if trained is None:
        warn('no --checkpoint: the weights are untrained')
    return trained or untrained


def load_whole(args: argparse.Namespace) -> Subject:
    """Build a classifier or a segmentor with its head: that of a config, or of a published classifier's file.

    Args:
        args: Of a parser with ``add_model_arguments(parser, weights=True)``.

    Raises:
        UserError: If the config, an option or a file is wrong.

    Examples:
        >>> import argparse
        >>> from mmvim.cli import UserError
        >>> from mmvim.cli.pictures import load_whole
        >>> try:
        ...     load_whole(argparse.Namespace(model='gone.pth', cfg_options=None, checkpoint=None, seed=0))
        ... except UserError as error:
        ...     print('gone.pth' in str(error))
        True
    """
    torch.manual_seed(args.seed)
    if args.model.endswith(_WEIGHTS):
        if args.checkpoint or args.cfg_options:
            option = '--checkpoint' if args.checkpoint else '--cfg-options'
            raise UserError(f'{option} is an option of a config, and {args.model} is a file of weights', 'leave it out')
        with checkpoint_errors():
            model = checkpoints.build_classifier(checkpoints.read(args.model))
        return Subject(model, Path(args.model).name, IMAGENET, None)
    cfg = load_config(args.model, args.cfg_options)
    check_compiled_ops(cfg)
    model, meta = build_model(cfg), {}
    if args.checkpoint is None:
        warn('no --checkpoint: the weights are untrained')
    else:
        path = local_checkpoint(args.checkpoint)
        if path is None:
            raise UserError(f'--checkpoint {args.checkpoint} cannot be fetched', 'download it, and give the file')
        checkpoint = read_checkpoint(path, '--checkpoint')
        check_fit(model, checkpoint, path, '--checkpoint', complete=True)  # which loads it
        meta = checkpoint['meta'] if isinstance(checkpoint.get('meta'), dict) else {}
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    own = ((loader.get('dataset') or {}).get('metainfo') or {}).get('classes')
    classes = (meta.get('dataset_meta') or {}).get('classes') or own
    return Subject(model.eval(), Path(args.model).stem, config_preprocessing(cfg), classes and list(classes))
