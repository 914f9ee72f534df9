"""Draw what a trained model sees on pictures, videos or a webcam.

    mmvim demo upernet_vim_demo work_dirs/demo/iter_800.pth street.jpg holidays/ drive.mp4 --out drawn

Each picture becomes DIR/NAME.png, each video and webcam DIR/NAME.mp4: the prediction over the picture, and a legend.
Models whose test pipeline has mmvim.LoadImageBands take GeoTIFF and .npy files, and are drawn on three of their bands.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mmvim.analysis.media import Frames, Media, VideoFile, find_media, read_rgb
from mmvim.analysis.overlay import Drawn, OverlayPainter
from mmvim.cli.arguments import add_dtype_argument, config_parser
from mmvim.cli.errors import ENVIRONMENT, UserError, warn
from mmvim.cli.painter import add_painter_arguments, build_painter
from mmvim.deploy.drafts import replacing
from mmvim.engine.progress import ProgressDisplay

LINES = 3  # of the legend below each frame of a video
_TOLD = 50  # frames of an endless source between two lines


def _parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = config_parser('demo')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='checkpoint file or URL, hf://owner/repo/file too')
    parser.add_argument(
        'inputs', metavar='INPUT', nargs='+', help='pictures, folders of them, videos, or webcam (webcam:1 ...)'
    )
    parser.add_argument('--out', metavar='DIR', default='drawn', help='where drawings go. Defaults to %(default)s')
    parser.add_argument('--frames', type=int, metavar='N', help='stop after so many frames of a video or webcam')
    parser.add_argument('--show', action='store_true', help='show each drawing in a window, too; q ends')
    parser.add_argument(
        '--bands',
        type=int,
        nargs=3,
        metavar=('R', 'G', 'B'),
        help="bands, from 0, that are drawn on, as red, green and blue. Defaults to the config's, or the first three",
    )
    add_painter_arguments(parser)
    add_dtype_argument(parser)
    args = parser.parse_args(argv)
    if args.frames is not None and args.frames < 1:
        parser.error(f'--frames {args.frames} is not a positive number')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Check, build, predict and draw.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the command, the config, the checkpoint or an input is wrong.
    """
    args = _parse_args(argv)
    try:
        find_media(args.inputs, arrays=True)  # what is wrong is said before the model is built
    except ValueError as error:
        raise _user_error(error) from error
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UserError(f'--out {out} is a file', 'name a folder')
    if args.show and not _has_windows():
        raise UserError('--show needs an OpenCV with windows and a display', 'leave it out and look into --out')
    painter = build_painter(args)
    try:
        media = find_media(args.inputs, arrays=painter.loader is not None)
    except ValueError as error:
        raise _user_error(error) from error
    if painter.loader is not None:
        moving = next((one.source for one in media if one.kind != 'picture'), None)
        if moving is not None:
            problem = f'{moving} has frames of three colours, and the model loads bands (mmvim.LoadImageBands)'
            raise UserError(problem, 'give files of pictures')
    out.mkdir(parents=True, exist_ok=True)
    pictures = [one for one in media if one.kind == 'picture']
    unread = _draw_pictures(painter, pictures, out, args.show) if pictures else []
    for one in media:
        if one.kind != 'picture':
            _draw_frames(painter, one, out, args)
    if unread and len(unread) == len(media):
        raise UserError(unread[0], 'give a picture that can be read')
    for problem in unread:
        warn(f'{problem}; left out')
    print(f'{len(media) - len(unread)} drawn: {out}')


def _draw_pictures(painter: OverlayPainter, pictures: Sequence[Media], out: Path, show: bool) -> list[str]:
    """Draw pictures, and return what is wrong with those that cannot be read."""
    unread = []
    with ProgressDisplay() as display:
        task = display.add('Predicting', len(pictures))
        for number, one in enumerate(pictures, 1):
            try:
                picture = _read(painter, one.source)
            except ValueError as error:
                unread.append(str(error))
                display.update(task, number)
                continue
            drawn = painter(picture)
            sheet = drawn.with_legend()
            with replacing(out / f'{one.stem}.png') as draft:
                Image.fromarray(sheet).save(draft)
            display.update(task, number, note=_note(one, drawn))
            if show and not _show(sheet, wait=0):
                break
    return unread


def _read(painter: OverlayPainter, file: str) -> np.ndarray:
    """Read a picture as the model takes it."""
    if painter.loader is None:
        return read_rgb(file)
    try:
        picture = painter.loader.read(file)
    except ImportError as error:  # of tifffile
        raise ValueError(str(error)) from error
    found, wanted = picture.shape[2], painter.channels
    if wanted is not None and found != wanted:
        raise ValueError(f'{file} has {found} bands, and the model takes {wanted}')
    if painter.bands is not None and max(painter.bands) >= found:
        raise ValueError(f'{file} has {found} bands, 0 to {found - 1}, and band {max(painter.bands)} is to be drawn')
    return picture


def _draw_frames(painter: OverlayPainter, one: Media, out: Path, args: argparse.Namespace) -> None:
    """Draw the frames of a video or a webcam into a video."""
    with ExitStack() as stack:
        try:
            frames = Frames(one)
        except ValueError as error:
            raise _user_error(error, ENVIRONMENT) from error
        stack.callback(frames.close)
        video = VideoFile(out / f'{one.stem}.mp4', frames.rate)
        stack.callback(video.close)  # after Ctrl-C, too: what is there can be played
        total = args.frames if frames.count is None else min(frames.count, args.frames or frames.count)
        display = stack.enter_context(ProgressDisplay())
        task = None if total is None else display.add(one.stem, total)
        number = 0
        for number, frame in enumerate(islice(frames, args.frames), 1):
            drawn = painter(frame)
            sheet = drawn.with_legend(LINES)
            try:
                video.add(sheet)
            except ValueError as error:
                raise _user_error(error, ENVIRONMENT) from error
            if task is not None:
                display.update(task, number, note=_note(one, drawn))
            elif number % _TOLD == 1:
                print(f'{one.stem}: frame {number}, {_note(one, drawn)} (Ctrl-C ends)')
            if args.show and not _show(sheet, wait=1):
                break
        if not number:
            raise UserError(f'{one.source} has no frame that can be read', 'convert it to .mp4', ENVIRONMENT)


def _note(one: Media, drawn: Drawn) -> str:
    found = ', '.join(found.text for found in drawn.found[:3]) or 'nothing found'
    return f'{one.stem if one.kind == "picture" else ""} {found}'.strip()


def _user_error(error: ValueError, status: int = 2) -> UserError:
    problem, _, remedy = str(error).partition('; ')
    return UserError(problem, remedy or 'see mmvim demo --help', status)


def _has_windows() -> bool:
    try:
        cv2.namedWindow('mmvim')
    except cv2.error:
        return False
    return True


def _show(sheet, wait: int) -> bool:
    """Show a drawing; return False once the user has pressed q or Escape."""
    cv2.imshow('mmvim', sheet[..., ::-1])
    return cv2.waitKey(wait) & 0xFF not in (ord('q'), 27)
