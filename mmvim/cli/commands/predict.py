"""Run an exported model on pictures: ``mmvim predict vim_t.onnx street.jpg --out predictions``.

Needs numpy, onnxruntime and Pillow: neither PyTorch nor an OpenMMLab package.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmvim.cli.commands import command_parser
from mmvim.cli.errors import ENVIRONMENT, UserError
from mmvim.deploy.drafts import replacing
from mmvim.deploy.errors import MissingPackageError, check_packages


def _parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('predict')
    parser.add_argument('model', metavar='MODEL', help='what mmvim export has written, MODEL.onnx')
    parser.add_argument('images', metavar='IMAGE', nargs='+')
    parser.add_argument(
        '--out',
        metavar='DIR',
        help='where to write the labels of each picture, as numbers (.png) and as colours (_painted.png), '
        'or the outputs of a backbone (.npz). Defaults to nowhere',
    )
    parser.add_argument('--threads', type=int, help='of an operator. Defaults to all cores')
    args = parser.parse_args(argv)
    if args.threads is not None and args.threads < 1:
        parser.error(f'--threads {args.threads} is not a positive number')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Predict, print and write.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the command, the model or a picture is wrong, or a package is missing.
    """
    args = _parse_args(argv)
    try:
        check_packages('numpy', 'onnxruntime', 'PIL', remedy='pip install numpy onnxruntime pillow')
    except MissingPackageError as error:
        raise UserError(error.problem, error.remedy, ENVIRONMENT) from error
    from mmvim.deploy.predict import Predictor, read_picture

    out = None if args.out is None else Path(args.out)
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f'--out {out} is a file', 'name a folder')
    try:
        predictor = Predictor(args.model, args.threads)
        if out is not None:
            _check_names(args.images, ('', '_painted') if predictor.task in ('labels', 'scores') else ('',))
        pictures = {image: read_picture(image) for image in args.images}
        predictions = {image: predictor(picture) for image, picture in pictures.items()}
    except ValueError as error:
        problem, _, remedy = str(error).partition('; ')
        raise UserError(problem, remedy or 'see mmvim predict --help') from error
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    for image, prediction in predictions.items():
        print(image)
        for line in _told(predictor, prediction):
            print(f'  {line}')
        if out is not None:
            _write(predictor, prediction, out / Path(image).stem)


def _check_names(images: Sequence[str], endings: Sequence[str]) -> None:
    """Check that no picture's prediction would be written over another's."""
    taken: dict[str, str] = {}
    for image in images:
        for name in (f'{Path(image).stem}{ending}' for ending in endings):
            if name in taken:
                raise UserError(
                    f'the predictions of {taken[name]} and {image} would both be named {name}', 'predict them apart'
                )
            taken[name] = image


def _told(predictor, prediction) -> list[str]:
    """Return what is printed of a prediction."""
    import numpy as np

    if prediction.labels is not None:
        shares = np.bincount(prediction.labels.reshape(-1)) / prediction.labels.size
        found = [label for label in shares.argsort()[::-1] if shares[label] > 0]
        return [f'{shares[label]:7.2%}  {predictor.name(label)}' for label in found]
    if prediction.scores is not None:
        best = prediction.scores.argsort()[::-1][:5]
        return [f'{prediction.scores[label]:7.2%}  {predictor.name(label)}' for label in best]
    return [f'{name}: {" x ".join(map(str, x.shape))}' for name, x in prediction.outputs.items()]


def _write(predictor, prediction, stem: Path) -> None:
    """Write a prediction to files whose names begin with ``stem``."""
    import numpy as np
    from PIL import Image

    if prediction.labels is not None:
        kind = np.uint8 if prediction.labels.max() < 256 else np.uint16
        with replacing(f'{stem}.png') as draft:
            Image.fromarray(prediction.labels.astype(kind)).save(draft)
        with replacing(f'{stem}_painted.png') as draft:
            Image.fromarray(predictor.paint(prediction.labels)).save(draft)
    else:
        with replacing(f'{stem}.npz') as draft:
            np.savez_compressed(draft, **prediction.outputs)
