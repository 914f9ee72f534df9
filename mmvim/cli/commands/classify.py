"""Classify images with a published classifier, to see that its file was read correctly.

    mmvim classify cat.jpg dog.jpg --arch tiny --checkpoint vim_t_midclstok_76p1acc.pth

The family is recognised from the file. Images are prepared as in the publisher's evaluation
(:func:`mmvim.checkpoints.preprocessing`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from mmvim import checkpoints
from mmvim.cli.arguments import add_dtype_argument
from mmvim.cli.commands import command_parser
from mmvim.cli.errors import UserError
from mmvim.cli.weights import checkpoint_errors
from mmvim.deploy.low_precision import compute_in_bf16


def _parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('classify')
    parser.add_argument('images', metavar='IMAGE', nargs='+')
    parser.add_argument('--arch', help='raise unless the file is of this one, e.g. tiny. Defaults to what the file is')
    parser.add_argument(
        '--checkpoint',
        required=True,
        metavar='FILE',
        help='published classifier: file, http(s):// or hf://owner/repo/file',
    )
    parser.add_argument('--key', help="key of the container, e.g. model_ema. Defaults to 'state_dict', else 'model'")
    parser.add_argument(
        '--classes',
        metavar='FILE',
        help='names of the classes, one a line. Defaults to those of '
        'ImageNet-1k if mmpretrain is installed, else numbers',
    )
    parser.add_argument('--img-size', type=int, help="side of the network's input. Defaults to the publisher's")
    parser.add_argument(
        '--crop-pct',
        type=float,
        help="side of the crop over the side of the resized picture. Defaults to the publisher's",
    )
    parser.add_argument(
        '--crop-mode',
        choices=checkpoints.CROP_MODES,
        help="resize the shorter side (center) or both sides (squash). Defaults to the publisher's",
    )
    parser.add_argument(
        '--interpolation', choices=('bicubic', 'bilinear'), help="of the resizing. Defaults to the publisher's, bicubic"
    )
    parser.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='Defaults to cuda if there is one, else cpu',
    )
    add_dtype_argument(parser)
    return parser.parse_args(argv)


def _check_device(device: str) -> None:
    """Check that PyTorch has a device, before the weights are read.

    Args:
        device: Its name, e.g. 'cuda:1'.

    Raises:
        UserError: If PyTorch cannot use a device of this name.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f'--device {device} cannot be used ({str(error).splitlines()[0][:80]})', 'leave it out, or give cpu or cuda'
        ) from error


def _class_names(file: str | None, number: int) -> list[str]:
    """Return the names of the classes, or their numbers.

    Args:
        file: A text file with one name a line, or None.
        number: The number of classes.

    Raises:
        UserError: If the file cannot be read or has another number of lines.
    """
    if file is not None:
        try:
            names = Path(file).read_text('utf-8').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'--classes {file} cannot be read ({error})', 'give a text file') from error
        if len(names) != number:
            raise UserError(
                f'--classes {file} has {len(names)} lines, and the head {number} classes', 'give a name for each'
            )
        return names
    if number == 1000:
        try:
            from mmpretrain.datasets.categories import IMAGENET_CATEGORIES

            return list(IMAGENET_CATEGORIES)
        except ImportError:
            pass
    return [f'class {i}' for i in range(number)]


def main(argv: Sequence[str] | None = None) -> None:
    """Read, classify and print.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the command, a picture or the checkpoint is wrong.
    """
    args = _parse_args(argv)
    _check_device(args.device)
    with checkpoint_errors():
        # Images first: they are quicker to read than the weights.
        pictures = {image: checkpoints.read_picture(image) for image in args.images}
        options = {} if args.img_size is None else {'img_size': args.img_size}
        found = checkpoints.read(args.checkpoint, key=args.key, arch=args.arch, **options)
        view = checkpoints.preprocessing(found, args.img_size, args.crop_pct, args.interpolation, args.crop_mode)
        model = checkpoints.build_classifier(found).to(args.device)
    if args.dtype == 'bf16':
        compute_in_bf16(model)
    assert found.head is not None  # build_classifier has seen to it
    names = _class_names(args.classes, found.head['num_classes'])
    console = Console()
    console.print(found.report.summary(), highlight=False, soft_wrap=True)
    console.print(f'{view}', highlight=False, soft_wrap=True)
    for image, picture in pictures.items():
        with torch.no_grad():
            scores = model(view(picture)[None].to(args.device))[0].softmax(0)
        top = scores.topk(min(5, len(names)))
        table = Table('', 'class', 'probability', title=image)
        for rank, (score, index) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True), 1):
            table.add_row(str(rank), names[index], f'{score:.4f}')
        console.print(table)
