"""Where pictures come from and where drawn ones go: files, folders, videos, webcams."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mmvim.datasets.readable import looks_whole, picture_problem

PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.gif')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
ARRAYS = ('.npy',)  # of models that take bands
WEBCAM = 'webcam'


class Media(NamedTuple):
    """Something to predict.

    Args:
        kind: 'picture', 'video' or 'webcam'.
        source: The file, or the number of a webcam.
        stem: What its drawings are called.

    Examples:
        >>> from mmvim.analysis.media import Media
        >>> Media('picture', 'street/a.jpg', 'a').kind
        'picture'
    """

    kind: str
    source: str
    stem: str


def find_media(inputs: list[str], arrays: bool = False) -> list[Media]:
    """Return what a user's words stand for, each with a name of its own.

    Args:
        inputs: Files, folders (whose pictures and videos count, not those in folders below) and ``webcam`` or
            ``webcam:1``, the number of a camera.
        arrays: Whether files of :data:`ARRAYS` are pictures, too. Defaults to False.

    Returns:
        Pictures, videos and webcams, those of a folder by name.

    Raises:
        ValueError: If a path does not exist, a folder has neither pictures nor videos, or a file is of no known kind;
            the message ends in what to do, after a semicolon.

    Examples:
        >>> from mmvim.analysis.media import find_media
        >>> find_media(['webcam:1'])
        [Media(kind='webcam', source='1', stem='webcam1')]
        >>> try:
        ...     find_media(['gone.jpg'])
        ... except ValueError as error:
        ...     print(error)
        gone.jpg does not exist; give a picture, a folder, a video, or webcam
    """
    found: list[tuple[str, str]] = []
    pictures = (*PICTURES, *ARRAYS) if arrays else PICTURES
    for name in inputs:
        word, _, number = name.partition(':')
        path = Path(name).expanduser()
        if word == WEBCAM and not path.exists():
            if not (number or '0').isdecimal():
                raise ValueError(f'{name} names no camera; write {WEBCAM}, or {WEBCAM}:1 for the second one')
            found.append((WEBCAM, number or '0'))
        elif path.is_dir():
            inside = sorted(
                str(file) for file in path.iterdir() if file.is_file() and _kind(file, pictures) is not None
            )
            if not inside:
                raise ValueError(f'{name} holds neither pictures nor videos; their names end in {" ".join(pictures)}')
            found += [(str(_kind(Path(file), pictures)), file) for file in inside]
        elif not path.exists():
            raise ValueError(f'{name} does not exist; give a picture, a folder, a video, or {WEBCAM}')
        elif _kind(path, pictures) is None:
            raise ValueError(f'{name} is of no known kind; names end in {" ".join((*pictures, *VIDEOS))}')
        else:
            found.append((str(_kind(path, pictures)), str(path)))
    taken: set[str] = set()
    media = []
    for kind, source in found:
        stem = f'{WEBCAM}{source}' if kind == WEBCAM else Path(source).stem
        if stem in taken and kind != WEBCAM:
            stem = Path(source).name
        number, base = 1, stem
        while stem in taken:
            number += 1
            stem = f'{base}_{number}'
        taken.add(stem)
        media.append(Media(kind, source, stem))
    return media


def _kind(path: Path, pictures: tuple[str, ...]) -> str | None:
    ending = path.suffix.lower()
    return 'picture' if ending in pictures else 'video' if ending in VIDEOS else None


def read_rgb(path: str) -> np.ndarray:
    """Read a picture the right side up, grey and 16-bit ones too, without transparency.

    Args:
        path: The file.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: If it cannot be read whole.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> from mmvim.analysis.media import read_rgb
        >>> with tempfile.NamedTemporaryFile(suffix='.png') as file:
        ...     Image.new('L', (40, 30), 7).save(file.name)
        ...     read_rgb(file.name)[0, 0].tolist()
        [7, 7, 7]
    """
    problem = None if looks_whole(path) else picture_problem(path)
    picture = None
    if problem is None:
        try:
            content = np.fromfile(path, np.uint8)  # imread cannot open names that are not of the system's encoding
            picture = cv2.imdecode(content, cv2.IMREAD_COLOR)
        except cv2.error as error:  # more pixels than OpenCV's limit
            problem = f'cannot be decoded ({" ".join(str(error).split())[:120]})'
        except OSError as error:
            problem = f'cannot be opened: {error.strerror}'
    if problem is None and picture is None:
        problem = picture_problem(path) or 'is no picture that OpenCV reads'
    if problem is not None:
        raise ValueError(f'{path} {problem}')
    return np.ascontiguousarray(picture[..., ::-1])


class Frames:
    """The frames of a video or a webcam, (H, W, 3) uint8, RGB, one after the other.

    Args:
        media: What to open.

    Raises:
        ValueError: If it cannot be opened; the message ends in what to do, after a semicolon.

    Examples:
        >>> from mmvim.analysis.media import Frames, Media
        >>> try:
        ...     Frames(Media('video', 'gone.mp4', 'gone'))
        ... except ValueError as error:
        ...     print(error)
        gone.mp4 cannot be opened as a video; convert it to .mp4
    """

    def __init__(self, media: Media) -> None:
        webcam = media.kind == WEBCAM
        with _without_messages():
            self.capture = cv2.VideoCapture(int(media.source) if webcam else media.source)
        if not self.capture.isOpened():
            self.capture.release()
            if webcam:
                raise ValueError(f'camera {media.source} cannot be opened; give another number, as in {WEBCAM}:1')
            raise ValueError(f'{media.source} cannot be opened as a video; convert it to .mp4')
        rate = self.capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 1 <= rate <= 240 else 25.0  # cameras often say 0
        count = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 and not webcam else None

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            there, frame = self.capture.read()
            if not there:
                return
            yield np.ascontiguousarray(frame[..., ::-1])

    def close(self) -> None:
        """Give the file or the camera back."""
        self.capture.release()


class VideoFile:
    """An .mp4 file that frames are added to; the first one decides the size.

    Args:
        path: The file; its folder must exist.
        rate: Frames a second.

    Examples:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from mmvim.analysis.media import VideoFile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     video = VideoFile(os.path.join(folder, 'a.mp4'), rate=5)
        ...     video.add(np.zeros((64, 64, 3), np.uint8))
        ...     video.close()
        ...     os.listdir(folder)
        ['a.mp4']
    """

    def __init__(self, path: str | os.PathLike, rate: float) -> None:
        self.path, self.rate = str(path), rate
        self._writer: Any = None
        self._size = (0, 0)

    def add(self, frame: np.ndarray) -> None:
        """Add a frame.

        Args:
            frame: (H, W, 3) uint8, RGB; scaled if it is not of the first one's size.

        Raises:
            ValueError: If the file cannot be written.
        """
        if self._writer is None:
            height, width = frame.shape[:2]
            self._size = (width - width % 2, height - height % 2)  # codecs want even sides
            self._writer = cv2.VideoWriter(self.path, cv2.VideoWriter.fourcc(*'mp4v'), self.rate, self._size)
            if not self._writer.isOpened():
                raise ValueError(f'{self.path} cannot be written; this OpenCV may lack FFmpeg, or the folder is closed')
        if frame.shape[1::-1] != self._size:
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def _without_messages() -> Iterator[None]:
    """Keep OpenCV from telling of each way in which it could not open something."""
    log = getattr(getattr(cv2, 'utils', None), 'logging', None)
    level = log.getLogLevel() if log else None
    if log:
        log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        if log:
            log.setLogLevel(level)
