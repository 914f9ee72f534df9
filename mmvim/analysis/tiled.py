"""Segmentation of one large picture from a script, straight from its file and into a file."""

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmvim.datasets.bands import stated_nodata
from mmvim.datasets.load_bands import LoadImageBands
from mmvim.models.tiled.segmentor import TiledSegmentor


def open_picture(path: str | os.PathLike, loader: LoadImageBands | None = None) -> np.ndarray:
    """Open a picture without reading it, where its format allows: ``.npy``, and TIFF files without compression.

    What is mapped are the values of the file, those that stand for no measurement too.

    Args:
        path: The file. Others are read whole.
        loader: Says how. Defaults to None, ``LoadImageBands()``. One that chooses bands, replaces values or reads a
            second file reads the picture whole.

    Returns:
        (H, W, C), mapped into memory or read.

    Raises:
        ValueError: If it cannot be read.

    Examples:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from mmvim.analysis.tiled import open_picture
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(os.path.join(folder, 'field.npy'), np.zeros((64, 48, 5), np.uint16))
        ...     picture = open_picture(os.path.join(folder, 'field.npy'))
        >>> type(picture).__name__, picture.shape
        ('memmap', (64, 48, 5))
    """
    loader = loader or LoadImageBands()
    mapped = _map(path, loader) if loader.bands is None and loader.fill is None else None
    return loader.read(str(path)) if mapped is None else mapped


def _map(path: str | os.PathLike, loader: LoadImageBands) -> np.ndarray | None:
    """Return the values of a file mapped into memory, (H, W, C); None if that cannot be."""
    ending, mapped = Path(path).suffix.lower(), None
    if loader.beside is not None or loader.backend_args is not None:
        return None
    if ending == '.npy':
        with suppress(ValueError, OSError):  # whatever is wrong with it, reading says
            mapped = np.load(path, mmap_mode='r')
    elif ending in ('.tif', '.tiff'):
        mapped = _map_tiff(path)
    if mapped is None or mapped.ndim not in (2, 3):
        return None
    if mapped.ndim == 2:
        return mapped[..., None]
    return mapped.transpose(1, 2, 0) if ending == '.npy' and loader.layout == 'first' else mapped


def _map_tiff(path: str | os.PathLike) -> np.ndarray | None:
    """Return a TIFF file's first picture mapped into memory, (H, W, C) or (H, W); None if that cannot be."""
    try:
        import tifffile

        with tifffile.TiffFile(path) as file:
            axes = file.series[0].axes
        mapped = tifffile.memmap(path, mode='r')
    except Exception:  # no tifffile, compressed, tiled, damaged: reading the file whole says what is wrong
        return None
    if axes in ('YX', 'YXS'):
        return mapped
    return mapped.transpose(1, 2, 0) if axes in ('SYX', 'CYX', 'IYX', 'QYX') else None


def predict_tiled(
    model: nn.Module,
    picture: np.ndarray | str | os.PathLike,
    tile: int | tuple[int, int] = 512,
    overlap: int | None = None,
    out: str | os.PathLike | None = None,
    memory_mb: int = 512,
    progress: Callable[[int, int], None] | None = None,
    loader: LoadImageBands | None = None,
) -> np.ndarray:
    """Predict the class of each pixel of a picture of any size, by a segmentor of MMSegmentation.

    Memory is bounded but for the result, of 2 bytes a pixel, which goes to a file with ``out``. A picture given by its
    path is read tile by tile where :func:`open_picture` can.

    Args:
        model: As ``mmseg.apis.init_model`` returns it; in eval mode meanwhile. A ``TiledSegmentor`` keeps its own
            ``tile``, ``overlap`` and ``memory_mb``.
        picture: (H, W, C) as the model's pipeline loads it (MMSegmentation's own loader has blue first), or the path of
            a file, which is read as ``loader`` reads it (red first).
        tile: Height and width of a tile. Defaults to 512.
        overlap: Least number of pixels that neighbouring tiles share. Defaults to None, a quarter of the smaller side.
        out: A ``.npy`` file for the result, which takes its name once it is complete. Defaults to None, no file.
        memory_mb: What the sums of unfinished blocks may take, in MB. Defaults to 512.
        progress: Called with the numbers of pixels done and to do after each block. Defaults to None.
        loader: Which bands of a file, and what stands in place of values that are none. Defaults to None,
            ``LoadImageBands()``.

    Returns:
        (H, W) int16; with ``out``, the file mapped into memory.

    Raises:
        ValueError: If the picture or a size is not what it must be, ``out`` does not end in ``.npy``, or a file has
            values that are none and ``loader`` no ``fill``.
        TypeError: If the model is no segmentor.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from torch import nn
        >>> from mmvim.analysis.tiled import predict_tiled
        >>> class Segmentor(nn.Conv2d):
        ...     def test_step(self, data): ...
        ...     def data_preprocessor(self, data, training):
        ...         return {'inputs': torch.stack(data['inputs']).float()}
        ...     def encode_decode(self, inputs, metas):
        ...         return self(inputs)
        >>> predict_tiled(Segmentor(5, 2, 1), np.zeros((40, 50, 5), np.uint8), tile=16).shape
        (40, 50)
    """
    tiled = model if isinstance(model, TiledSegmentor) else TiledSegmentor(model, tile, overlap, memory_mb)
    if out is not None and Path(out).suffix != '.npy':
        raise ValueError(f'out={str(out)!r} must end in .npy: labels are written as an array of NumPy')
    loader, mapped = loader or LoadImageBands(), None
    if isinstance(picture, np.ndarray):
        array = picture
    else:
        mapped = _map(picture, loader)
        array = loader.read(str(picture)) if mapped is None else mapped
    nodata = None if mapped is None else stated_nodata(str(picture), str(picture))
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f'a picture must be (H, W, C), got {array.shape}')
    height, width = array.shape[:2]

    def read(rows: slice, columns: slice) -> Tensor:
        part = array[rows, columns]  # (h, w, C)
        if mapped is not None:
            part = loader.finish(part, f'{picture} from row {rows.start} and column {columns.start}', nodata)
        part = part if part.dtype == np.uint8 else part.astype(np.float32)
        return torch.from_numpy(np.array(part.transpose(2, 0, 1), order='C'))  # a copy, of this tile alone

    training = tiled.module.training
    tiled.eval()
    draft = None if out is None else Path(out).with_name(f'.{Path(out).name}.{uuid.uuid4().hex[:8]}.part')
    try:
        labels = (
            np.empty((height, width), np.int16)
            if draft is None
            else np.lib.format.open_memmap(draft, mode='w+', dtype=np.int16, shape=(height, width))
        )
        done = 0
        for block, part in tiled.decide(read, height, width):
            rows, columns = part.shape
            labels[block.row : block.row + rows, block.column : block.column + columns] = part.cpu().numpy()
            done += rows * columns
            if progress is not None:
                progress(done, height * width)
        if draft is None or out is None:
            return labels
        labels.flush()  # type: ignore[attr-defined]
        del labels
        os.replace(draft, out)
        return np.load(out, mmap_mode='r')
    finally:
        tiled.train(training)
        if draft is not None:
            draft.unlink(missing_ok=True)
