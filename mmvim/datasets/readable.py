"""Pictures and label maps that cannot be read whole: which they are, and what a data set does about them.

Decoders differ: of a truncated JPEG file older versions of OpenCV make a picture with a grey rest and say so to nobody,
and of an empty file none says which one it is. Here the end of each file is looked at before the pipeline runs, and a
pipeline's error is traced to the file that it could not read.
"""

import logging
import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError

from mmvim.datasets.bands import decode_bands

ACTIONS = ('stop', 'skip')
_PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.gif', '.tif', '.tiff', '.npy')
_TAIL = 64  # bytes at the end of a file, in which its end marker stands unless something was appended


class UnreadableFileError(OSError):
    """Error for a picture or a label map that is missing, empty, truncated or no picture.

    Args:
        message: Names the file and what is wrong with it. (One text, so that a data worker can send the error.)

    Examples:
        >>> from mmvim.datasets.readable import UnreadableFileError
        >>> print(UnreadableFileError('a.jpg is empty'))
        a.jpg is empty
    """


def picture_problem(path: str) -> str | None:
    """Decode a picture and say what is wrong with its file.

    Args:
        path: The file.

    Returns:
        A predicate to put after the file's name in a sentence; None if it can be read whole.

    Examples:
        >>> from mmvim.datasets.readable import picture_problem
        >>> picture_problem('no such.jpg')
        'does not exist'
    """
    if not os.path.exists(path):
        return 'does not exist'
    try:
        if os.path.getsize(path) == 0:
            return 'is empty'
        if path.lower().endswith('.npy'):
            np.load(path, mmap_mode='r')  # which compares the size with what the file says
        elif not (path.lower().endswith(('.tif', '.tiff')) and _is_tiff_of_bands(path)):
            with Image.open(path) as picture:
                picture.load()
    except UnidentifiedImageError:
        return f'is no picture ({os.path.getsize(path)} bytes)'
    except PermissionError:
        return 'cannot be opened: no permission'
    except (Image.DecompressionBombError, MemoryError):  # large, which is no fault of the file
        return None
    except Exception as error:  # decoders report damage in many ways
        text = ' '.join(str(error).split())
        return f'is truncated ({text})' if 'truncated' in text else f'is damaged ({text or type(error).__name__})'
    return None


def _is_tiff_of_bands(path: str) -> bool:
    """Return whether a file is TIFF that tifffile reads: Pillow takes one of five bands for no picture."""
    try:
        with open(path, 'rb') as stream:
            decode_bands(stream.read(), path)
    except Exception:  # decoders report damage in many ways
        return False
    return True


def looks_whole(path: str) -> bool:
    """Check, without decoding it, whether a picture's file has an end.

    Args:
        path: The file.

    Returns:
        False if a JPEG or PNG file lacks its end marker, a WebP or BMP file is shorter than it says, or a file is empty
        or missing. True for other formats. Files with something appended may be False, too.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> from mmvim.datasets.readable import looks_whole
        >>> with tempfile.NamedTemporaryFile(suffix='.png') as file:
        ...     Image.new('RGB', (8, 8)).save(file.name)
        ...     whole = looks_whole(file.name)
        ...     _ = file.truncate(40)
        ...     whole, looks_whole(file.name)
        (True, False)
    """
    try:
        with open(path, 'rb') as stream:
            head = stream.read(16)
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - _TAIL, 0))
            tail = stream.read()
    except OSError:
        return False
    if head.startswith(b'\xff\xd8'):
        return b'\xff\xd9' in tail
    if head.startswith(b'\x89PNG'):
        return b'IEND' in tail
    if head.startswith(b'RIFF') and head[8:12] == b'WEBP':
        return int.from_bytes(head[4:8], 'little') + 8 <= size
    if head.startswith(b'BM'):
        return int.from_bytes(head[2:6], 'little') <= size
    return size > 0


def local_pictures(results: dict, transforms: Sequence[object] | None = None) -> list[str]:
    """Return the pictures and label maps on local disks that a sample names.

    Args:
        results: What a data set knows of the sample: ``img_path``, ``seg_map_path`` and whatever else ends in ``path``.
        transforms: Of its pipeline. Where none of them loads annotations, label maps are not read, and need not be
            there. Defaults to None, all files count.

    Examples:
        >>> from mmvim.datasets.readable import local_pictures
        >>> local_pictures({'img_path': 'a.jpg', 'seg_map_path': 's3://bucket/a.png', 'img_id': 3})
        ['a.jpg']
    """
    labels = transforms is None or any('Annotation' in type(transform).__name__ for transform in transforms)
    return [
        value
        for key, value in results.items()
        if (key == 'img_path' or (labels and key.endswith('path')))
        and isinstance(value, str)
        and value.lower().endswith(_PICTURES)
        and '://' not in value
    ]


def first_problem(paths: list[str]) -> tuple[str, str] | None:
    """Return the first file that cannot be read whole, and what is wrong with it; None if all can.

    Args:
        paths: The files, each of which is decoded.

    Examples:
        >>> from mmvim.datasets.readable import first_problem
        >>> first_problem(['gone.jpg'])
        ('gone.jpg', 'does not exist')
    """
    return next(((path, problem) for path in paths if (problem := picture_problem(path)) is not None), None)


class ReadablePipeline:
    """A pipeline that names the file it cannot read, or leaves the sample out so that the data set draws another.

    Args:
        pipeline: The data set's own: takes and returns a dict, or None for a sample that is left out.
        action: 'stop' raises an error that names the file; 'skip' leaves the sample out.
        limit: After how many different unreadable files of one process 'skip' is an error, too. Defaults to 100.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> from mmvim.datasets.readable import ReadablePipeline, UnreadableFileError
        >>> pipeline = ReadablePipeline(lambda results: results, action='stop')
        >>> try:
        ...     pipeline({'img_path': 'gone.jpg'})
        ... except UnreadableFileError as error:
        ...     print(str(error).split(';')[0])
        gone.jpg does not exist
    """

    def __init__(self, pipeline: Callable[[dict], Any], action: str, limit: int = 100) -> None:
        if action not in ACTIONS:
            raise ValueError(f"action={action!r} must be 'stop' or 'skip'")
        if limit < 1:
            raise ValueError(f'limit={limit} must be 1 or more files')
        self.pipeline, self.action, self.limit = pipeline, action, limit
        self._skips = multiprocessing.Value('q', 0)  # of all workers
        self._whole: set[str] = set()  # have no end marker at their end, and are whole nevertheless
        self._bad: dict[str, str] = {}

    @property
    def skips(self) -> int:
        """How many samples all data workers have left out."""
        return self._skips.value

    def __call__(self, results: dict) -> Any:
        """Run the pipeline on a sample.

        Args:
            results: What the data set knows of it: ``img_path``, ``seg_map_path`` and whatever else ends in ``path``.

        Returns:
            What the pipeline returns; None for a sample that is left out.

        Raises:
            UnreadableFileError: If a file cannot be read, and is not to be left out.
        """
        files = [path for path in self._files(results) if path not in self._whole]
        suspects = [path for path in files if not looks_whole(path)]
        found = first_problem(suspects)
        if found is not None:
            return self._leave_out(*found, None)
        self._whole.update(suspects)
        try:
            return self.pipeline(results)
        except Exception as error:
            found = first_problem(self._files(results))
            if found is None:
                raise  # the files can be read: it is another error
            return self._leave_out(*found, error)

    def _files(self, results: dict) -> list[str]:
        return local_pictures(results, getattr(self.pipeline, 'transforms', None))

    def _leave_out(self, path: str, problem: str, cause: Exception | None) -> None:
        new = path not in self._bad
        self._bad[path] = problem
        if self.action == 'stop':
            raise UnreadableFileError(
                f'{path} {problem}; replace it, or leave such pictures out while training '
                "(mmvim.UnreadableFilesHook(action='skip'), mmvim train --unreadable skip)"
            ) from cause
        with self._skips.get_lock():
            self._skips.value += 1
        if len(self._bad) > self.limit:
            raise UnreadableFileError(
                f'{len(self._bad)} pictures cannot be read, of which {path} {problem}; is the whole data set there? '
                '(limit of mmvim.UnreadableFilesHook)'
            ) from cause
        if new:
            print_log(f'{path} {problem}: another picture is drawn', logger='current', level=logging.WARNING)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == 'pipeline':  # while it is unpickled in a worker it has no pipeline yet
            raise AttributeError(name)
        return getattr(self.pipeline, name)
