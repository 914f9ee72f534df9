"""The transform that loads pictures of any number of bands."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio

from mmvim.datasets.bands import LAYOUTS, check_bands, choose_bands, decode_bands, stated_nodata
from mmvim.datasets.errors import BandsError
from mmvim.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImageBands(BaseTransform):
    """Load a picture of any number of bands: GeoTIFF, ``.npy``, 16-bit depth, or an ordinary picture.

    It stands in the place of ``LoadImageFromFile``, under MMSegmentation and MMDetection. Bands keep the order of their
    file, colours are red, green, blue: leave ``bgr_to_rgb`` of the preprocessor at False. Bytes stay bytes; all other
    numbers become float32, because neither OpenCV nor PyTorch can do all that is needed with 16-bit integers.

    Args:
        bands: Numbers of the bands to keep, from 0, in this order. Defaults to None, all.
        layout: Where the bands of a ``.npy`` file stand, 'last' or 'first'. Defaults to 'last'.
        nodata: The value of pixels without a measurement. Defaults to None: what a GeoTIFF file says itself
            (``GDAL_NODATA``), and no value of other formats.
        fill: What stands in place of pixels without a measurement and of what is no number (NaN, infinity). Defaults to
            None: a picture with one of them is an error.
        beside: For a second file beside the picture, such as depth, whose bands follow the picture's: parts of the path
            of the picture, and what stands there in that of the other. Defaults to None.
        backend_args: Of MMEngine's file backend. Defaults to None, local files.

    Raises:
        ValueError: If an argument cannot be right; when a picture is loaded, if it cannot be read, with its name.
        BandsError: A ``ValueError``: if the picture lacks a band, or has pixels without a measurement or that are no
            numbers, and there is no ``fill``.

    Examples:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from mmvim.datasets.load_bands import LoadImageBands
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, 'field.npy')
        ...     np.save(path, np.full((32, 48, 5), 40000, np.uint16))
        ...     results = LoadImageBands(bands=(3, 2, 1))({'img_path': path})
        >>> results['img'].shape, results['img'].dtype, results['img_shape']
        ((32, 48, 3), dtype('float32'), (32, 48))
    """

    def __init__(
        self,
        bands: Sequence[int] | None = None,
        layout: str = 'last',
        nodata: float | None = None,
        fill: float | None = None,
        beside: Mapping[str, str] | None = None,
        backend_args: dict | None = None,
    ) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f'layout={layout!r} is not one of {", ".join(map(repr, LAYOUTS))}')
        if nodata is not None and fill is None:
            raise ValueError(f'nodata={nodata!r} needs fill, the value to stand in its place')
        if fill is not None and not math.isfinite(fill):
            raise ValueError(f'fill={fill!r} must be a finite number')
        if beside is not None and not beside:
            raise ValueError('beside={} changes nothing of a path; leave it out')
        self.bands, self.layout, self.nodata, self.fill = check_bands(bands), layout, nodata, fill
        self.beside = None if beside is None else dict(beside)
        self.backend_args = backend_args

    def read(self, path: str) -> np.ndarray:
        """Read a picture as this transform does.

        Args:
            path: Its file, or address.

        Returns:
            (H, W, C), uint8 or float32.

        Raises:
            ValueError: As for the class.
        """
        picture, absent = self._decode(path)
        if self.beside is not None:
            other = path
            for part, replacement in self.beside.items():
                other = other.replace(part, replacement)
            if other == path:
                raise ValueError(f'{path} has none of {", ".join(map(repr, self.beside))} of beside')
            further, too = self._decode(other)
            if further.shape[:2] != picture.shape[:2]:
                raise ValueError(
                    f'{other} has {further.shape[0]} x {further.shape[1]} pixels, and {path} '
                    f'{picture.shape[0]} x {picture.shape[1]}'
                )
            both = np.result_type(picture, further)
            if absent is not None or too is not None:
                masks = ((picture, absent), (further, too))
                absent = np.concatenate([np.zeros(of.shape, bool) if m is None else m for of, m in masks], axis=2)
            picture = np.concatenate([picture.astype(both), further.astype(both)], axis=2)
        return self._finished(picture, absent, path)

    def finish(self, part: np.ndarray, path: str, nodata: float | None = None) -> np.ndarray:
        """Choose the bands of a part of a picture, and replace the values that are none, as :meth:`read` does.

        Args:
            part: (h, w, C), as in the file.
            path: What messages call it.
            nodata: What the file says of itself, see :func:`mmvim.datasets.bands.stated_nodata`. Defaults to None.

        Returns:
            (h, w, C'), uint8 or float32.

        Raises:
            ValueError: As for the class.
        """
        return self._finished(part, self._absent(part, nodata), path)

    def _finished(self, picture: np.ndarray, absent: np.ndarray | None, path: str) -> np.ndarray:
        picture = choose_bands(picture, self.bands, path)
        absent = None if absent is None else choose_bands(absent, self.bands, path)
        if absent is not None and not absent.any():
            absent = None
        if absent is not None and self.fill is None:
            raise BandsError(
                f'{path} has {int(absent.sum())} values that stand for no measurement (GDAL_NODATA); give fill, the '
                'value to stand in their place'
            )
        if picture.dtype == np.uint8:
            if absent is not None:
                if self.fill not in range(256):
                    raise BandsError(f'fill={self.fill!r} is no byte, and {path} holds bytes; give one from 0 to 255')
                picture = np.where(absent, np.uint8(self.fill), picture)
            return np.ascontiguousarray(picture)
        whole = picture.dtype.kind != 'f'
        with np.errstate(over='ignore'):  # of float64, whose largest numbers become infinite, and are found below
            picture = picture.astype(np.float32)
        if absent is not None:
            picture[absent] = self.fill
        strange = None if whole else ~np.isfinite(picture)
        if strange is not None and strange.any():
            if self.fill is None:
                raise BandsError(
                    f'{path} has {int(strange.sum())} values that are no numbers (NaN or infinity); give fill, the '
                    'value to stand in their place'
                )
            picture[strange] = self.fill
        return np.ascontiguousarray(picture)

    def _absent(self, picture: np.ndarray, stated: float | None) -> np.ndarray | None:
        """Return which values stand for no measurement; None for none. NaN is seen to with what is no number."""
        value = stated if self.nodata is None else self.nodata
        if value is None or math.isnan(value):
            return None
        with np.errstate(over='ignore'):  # a value beyond those of the file's type is none of its
            return np.asarray(picture == value)

    def transform(self, results: dict) -> dict:
        """Load one picture.

        Args:
            results: With ``img_path``.

        Returns:
            The same dictionary, with ``img``, ``img_shape`` and ``ori_shape`` set.
        """
        results['img'] = self.read(results['img_path'])
        results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        return results

    def _decode(self, path: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a file's picture, and which of its values stand for no measurement."""
        content = fileio.get(path, backend_args=self.backend_args)
        picture = decode_bands(content, path, self.layout)
        return picture, self._absent(picture, stated_nodata(io.BytesIO(content), path))

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(bands={self.bands}, layout={self.layout!r}, nodata={self.nodata}, '
            f'fill={self.fill}, beside={self.beside})'
        )


def bands_loader(dataset: Any) -> LoadImageBands | None:
    """Return the ``LoadImageBands`` of a data set's pipeline, or of one that it wraps; None without.

    Args:
        dataset: As MMEngine builds it.

    Examples:
        >>> from types import SimpleNamespace
        >>> from mmvim.datasets.load_bands import LoadImageBands, bands_loader
        >>> inner = SimpleNamespace(pipeline=SimpleNamespace(transforms=[LoadImageBands(bands=(3, 1))]))
        >>> bands_loader(SimpleNamespace(dataset=inner)).bands
        (3, 1)
    """
    while dataset is not None:
        for transform in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
            if isinstance(transform, LoadImageBands):
                return transform
        parts = getattr(dataset, 'datasets', None)  # of ConcatDataset, whose parts are of a kind
        dataset = parts[0] if parts else getattr(dataset, 'dataset', None)
    return None
