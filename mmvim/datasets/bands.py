"""Pictures of any number of channels: how their files are read, and how three of their bands are shown."""

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import cv2
import numpy as np

from mmvim.datasets.errors import BandsError

LAYOUTS = ('last', 'first')
_GDAL_NODATA = 42113  # tag of a GeoTIFF file


def decode_bands(content: bytes, name: str, layout: str = 'last') -> np.ndarray:
    """Read a picture of any number of bands, in the order of its file.

    Args:
        content: The bytes of the file.
        name: Its name, whose ending says what it is: ``.npy``, ``.tif`` or ``.tiff`` (GeoTIFF too, which needs the
            package tifffile), or anything that OpenCV reads, such as 16-bit PNG.
        layout: Where the bands of a ``.npy`` array stand: 'last' (H, W, C) or 'first' (C, H, W). A TIFF file says it
            itself. Defaults to 'last'.

    Returns:
        (H, W, C), in the file's dtype; colours are red, green, blue.

    Raises:
        ValueError: If it cannot be read, or is not a picture.
        ImportError: If it is a TIFF file, and tifffile is missing.

    Examples:
        >>> import io
        >>> import numpy as np
        >>> from mmvim.datasets.bands import decode_bands
        >>> file = io.BytesIO()
        >>> np.save(file, np.zeros((5, 32, 48), np.uint16))
        >>> decode_bands(file.getvalue(), 'field.npy', layout='first').shape
        (32, 48, 5)
    """
    ending = PurePosixPath(name).suffix.lower()
    if ending == '.npy':
        picture = _from_npy(content, name, layout)
    elif ending in ('.tif', '.tiff'):
        picture = _from_tiff(content, name)
    else:
        found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
        if found is None:
            raise ValueError(f'{name} is no picture that OpenCV reads; give .npy, .tif or a common format')
        picture = found if found.ndim == 3 else found[..., None]
        if picture.shape[2] in (3, 4):  # OpenCV's order is blue, green, red
            picture = picture[..., [2, 1, 0, 3][: picture.shape[2]]]
    if picture.dtype.kind not in 'uif' or 0 in picture.shape:
        raise ValueError(f'{name} holds {picture.dtype} of shape {picture.shape}, not a picture of numbers')
    return picture


def _from_npy(content: bytes, name: str, layout: str) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f'{name} is no array that NumPy reads without pickle ({error}); use np.save') from None
    if array.ndim == 2:
        return array[..., None]
    if array.ndim != 3:
        raise ValueError(f'{name} has {array.ndim} axes {array.shape}, and a picture has two or three')
    return array if layout == 'last' else array.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)


def _from_tiff(content: bytes, name: str) -> np.ndarray:
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(f'{name} needs tifffile: pip install mmvim[bands]') from error
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = file.series[0]  # of a file with overviews, the full size
            axes, array = series.axes, series.asarray()
    except (tifffile.TiffFileError, ValueError, IndexError, KeyError) as error:
        remedy = 'pip install imagecodecs' if 'imagecodecs' in str(error) else 'see whether the file is whole'
        raise ValueError(f'{name} cannot be read as TIFF ({error}); {remedy}') from error
    others = [place for place, axis in enumerate(axes) if axis not in 'YX']
    if not {'Y', 'X'} <= set(axes) or sum(array.shape[place] > 1 for place in others) > 1:
        raise ValueError(f'{name} has the axes {axes} {array.shape}, and a picture has rows, columns and bands')
    ordered = array.transpose(axes.index('Y'), axes.index('X'), *others)  # (H, W, ...)
    return ordered.reshape(*ordered.shape[:2], -1)  # (H, W, C)


def stated_nodata(file: str | os.PathLike | BinaryIO, name: str) -> float | None:
    """Return the value that stands for no measurement, if the file says it: ``GDAL_NODATA`` of GeoTIFF.

    Args:
        file: Its path, or its bytes as a stream.
        name: Its name, whose ending says what it is.

    Returns:
        The value, which may be NaN; None of other formats, and of a file that cannot be read.

    Examples:
        >>> import io
        >>> from mmvim.datasets.bands import stated_nodata
        >>> stated_nodata(io.BytesIO(b''), 'field.npy') is None
        True
    """
    if PurePosixPath(name).suffix.lower() not in ('.tif', '.tiff'):
        return None
    with suppress(Exception):  # no tifffile, or a damaged file: decoding says what is wrong
        import tifffile

        with tifffile.TiffFile(file) as found:
            tag = found.pages[0].tags.get(_GDAL_NODATA)
        return None if tag is None else float(str(tag.value).strip('\0 '))
    return None


def choose_bands(picture: np.ndarray, bands: Sequence[int] | None, name: str) -> np.ndarray:
    """Return some of a picture's bands, in the order asked for.

    Args:
        picture: (H, W, C).
        bands: Their numbers, from 0; None for all.
        name: Of the picture, for messages.

    Raises:
        BandsError: If it lacks one.

    Examples:
        >>> import numpy as np
        >>> from mmvim.datasets.bands import choose_bands
        >>> choose_bands(np.array([[[7, 8, 9]]]), (2, 0), 'field.npy').tolist()
        [[[9, 7]]]
    """
    if bands is None:
        return picture
    beyond = [band for band in bands if not 0 <= band < picture.shape[2]]
    if beyond:
        raise BandsError(
            f'{name} has {picture.shape[2]} bands, 0 to {picture.shape[2] - 1}, and bands={tuple(bands)} asks for '
            f'{beyond[0]}'
        )
    return picture[..., list(bands)]


def as_rgb(
    picture: np.ndarray, bands: Sequence[int] | None = None, percent: tuple[float, float] = (2.0, 98.0)
) -> np.ndarray:
    """Return three bands of a picture as colours to look at.

    Args:
        picture: (H, W, C). Bytes are shown as they are; of other numbers each band is stretched.
        bands: The numbers of the three that become red, green and blue. Defaults to None: the first three, or the first
            alone, in grey, where there are fewer.
        percent: Percentiles of a band that become 0 and 255. Defaults to (2, 98).

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: If ``bands`` are not three of the picture's.

    Examples:
        >>> import numpy as np
        >>> from mmvim.datasets.bands import as_rgb
        >>> picture = np.arange(5, dtype=np.uint8).reshape(1, 1, 5)
        >>> as_rgb(picture, (3, 1, 0)).tolist()
        [[[3, 1, 0]]]
    """
    if bands is None:
        bands = (0, 1, 2) if picture.shape[2] >= 3 else (0, 0, 0)
    if len(bands) != 3:
        raise ValueError(f'bands={tuple(bands)} are {len(bands)}, and a picture is shown in three')
    chosen = choose_bands(picture, bands, 'the picture')
    if chosen.dtype == np.uint8:
        return np.ascontiguousarray(chosen)
    shown = np.zeros(chosen.shape, np.uint8)
    for place in range(3):
        band = chosen[..., place].astype(np.float64)
        finite = np.isfinite(band)
        if finite.any():
            low, high = np.percentile(band[finite], percent)
            share = (band - low) / (high - low) if high > low else np.where(band > low, 1.0, 0.0)
            shown[..., place] = np.rint(255 * np.clip(np.where(finite, share, 0), 0, 1))
    return shown


def check_bands(bands: Any) -> tuple[int, ...] | None:
    """Return the numbers of bands as a tuple, or None for all.

    Args:
        bands: What a config says.

    Raises:
        ValueError: If they are not whole numbers from 0.

    Examples:
        >>> from mmvim.datasets.bands import check_bands
        >>> check_bands([3, 2, 1])
        (3, 2, 1)
    """
    if bands is None:
        return None
    if isinstance(bands, (str, bytes)) or not isinstance(bands, Sequence) or not bands:
        raise ValueError(f'bands={bands!r} must be numbers of bands from 0, such as (3, 2, 1), or None for all')
    if any(type(band) is not int or band < 0 for band in bands):
        raise ValueError(f'bands={tuple(bands)!r} must be whole numbers from 0')
    return tuple(bands)
