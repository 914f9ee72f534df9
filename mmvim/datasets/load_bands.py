"""The transform that loads pictures of any number of bands."""

from collections.abc import Mapping, Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio

from mmvim.datasets.bands import LAYOUTS, check_bands, choose_bands, decode_bands
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
        nodata: The value of pixels without a measurement. Defaults to None, no value.
        fill: What stands in place of ``nodata`` and of what is no number (NaN, infinity). Defaults to None: a picture
            with the latter is an error.
        beside: For a second file beside the picture, such as depth, whose bands follow the picture's: parts of the path
            of the picture, and what stands there in that of the other. Defaults to None.
        backend_args: Of MMEngine's file backend. Defaults to None, local files.

    Raises:
        ValueError: If an argument cannot be right; when a picture is loaded, if it cannot be read, lacks a band, or has
            pixels that are no numbers.

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
        picture = self._decode(path)
        if self.beside is not None:
            other = path
            for part, replacement in self.beside.items():
                other = other.replace(part, replacement)
            if other == path:
                raise ValueError(f'{path} has none of {", ".join(map(repr, self.beside))} of beside')
            further = self._decode(other)
            if further.shape[:2] != picture.shape[:2]:
                raise ValueError(
                    f'{other} has {further.shape[0]} x {further.shape[1]} pixels, and {path} '
                    f'{picture.shape[0]} x {picture.shape[1]}'
                )
            both = np.result_type(picture, further)
            picture = np.concatenate([picture.astype(both), further.astype(both)], axis=2)
        picture = choose_bands(picture, self.bands, path)
        absent = None if self.nodata is None else picture == self.nodata
        if picture.dtype != np.uint8:
            strange = None if picture.dtype.kind != 'f' else ~np.isfinite(picture)
            picture = picture.astype(np.float32)
            if strange is not None and strange.any():
                if self.fill is None:
                    raise ValueError(
                        f'{path} has {int(strange.sum())} values that are no numbers (NaN or infinity); give fill, the '
                        'value to stand in their place'
                    )
                picture[strange] = self.fill
        if absent is not None and absent.any():
            picture = np.where(absent, picture.dtype.type(self.fill), picture)
        return np.ascontiguousarray(picture)

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

    def _decode(self, path: str) -> np.ndarray:
        return decode_bands(fileio.get(path, backend_args=self.backend_args), path, self.layout)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(bands={self.bands}, layout={self.layout!r}, nodata={self.nodata}, '
            f'fill={self.fill}, beside={self.beside})'
        )
