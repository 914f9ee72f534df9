"""Run an exported model on pictures. Needs numpy, onnxruntime and Pillow: neither PyTorch nor an OpenMMLab package.

The file is self-contained, so that it can be copied to where mmvim is not installed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

_FILTERS = {
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'nearest': Image.Resampling.NEAREST,
}


class Prediction(NamedTuple):
    """What a model says of a picture.

    Attributes:
        labels: The class of each pixel of the picture, int64 (H, W); None unless the model is a segmentor.
        scores: The probability of each class, float32 (classes,); None unless the model is a classifier.
        outputs: The model's outputs as they are, by name.

    Examples:
        >>> import numpy as np
        >>> from mmvim.deploy import Prediction
        >>> Prediction(np.zeros((2, 3), np.int64), None, {}).labels.shape
        (2, 3)
    """

    labels: np.ndarray | None
    scores: np.ndarray | None
    outputs: dict[str, np.ndarray]


class Predictor:
    """An exported model with its preprocessing and its classes.

    Args:
        file: What ``mmvim export`` has written.
        threads: Of an operator. Defaults to None, all cores.

    Attributes:
        task: 'labels', 'scores', 'classes' or 'features'.
        classes: Names of the classes, None if they have none.
        palette: A colour of each class, uint8 (classes, 3), None if they have none.

    Raises:
        ValueError: If the file is not one that ``mmvim export`` has written.

    Examples:
        >>> from mmvim.deploy.predict import Predictor
        >>> try:
        ...     Predictor('gone.onnx')
        ... except ValueError as error:
        ...     print(error)
        gone.onnx does not exist; give a file that mmvim export has written
    """

    def __init__(self, file: str | os.PathLike, threads: int | None = None) -> None:
        import onnxruntime

        remedy = 'give a file that mmvim export has written'
        if not os.path.isfile(file):
            raise ValueError(f'{file} does not exist; {remedy}')
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])
        except Exception as error:  # of many kinds, of the runtime's own
            text = ' '.join(str(error).split())[:200]
            raise ValueError(f'{file} cannot be run ({text}); {remedy}, and a newer onnxruntime') from error
        found = self.session.get_modelmeta().custom_metadata_map
        if 'mmvim.task' not in found:
            raise ValueError(f'{file} has no word of mmvim in its metadata; {remedy}')
        self.task = found['mmvim.task']
        self.preprocessing = json.loads(found['mmvim.preprocessing'])
        self.classes = json.loads(found['mmvim.classes']) if 'mmvim.classes' in found else None
        palette = json.loads(found['mmvim.palette']) if 'mmvim.palette' in found else None
        self.palette = None if palette is None else np.array(palette, np.uint8)
        self._input = self.session.get_inputs()[0]

    def __call__(self, picture: np.ndarray) -> Prediction:
        """Predict.

        Args:
            picture: (H, W, 3), RGB, uint8; for a model of other bands (H, W, C), of any kind of numbers.

        Raises:
            ValueError: If it is none, or the model takes no picture of its size.
        """
        bands = self._input.shape[1]
        colours = bands == 3 and not self.preprocessing.get('bands')
        kinds = 'u' if colours else 'uif'
        if (
            picture.ndim != 3
            or picture.shape[2] != bands
            or picture.dtype.kind not in kinds
            or (colours and picture.dtype != np.uint8)
            or 0 in picture.shape
        ):
            raise ValueError(
                f'a picture must be (H, W, {bands}){" uint8" if colours else ""}, got {picture.shape} {picture.dtype}; '
                'read it with mmvim.deploy.predict.read_picture'
            )
        x = self.prepare(picture)[None]
        for axis, wanted in enumerate(self._input.shape):
            if isinstance(wanted, int) and wanted != x.shape[axis]:
                raise ValueError(
                    f'the model takes inputs of {self._input.shape} alone, and this picture became {list(x.shape)}; '
                    'resize it before, or export without --fixed-size'
                )
        names = [output.name for output in self.session.get_outputs()]
        outputs = dict(zip(names, self.session.run(names, {self._input.name: x}), strict=True))
        first, size = outputs[names[0]], picture.shape[:2]
        if self.task == 'labels':
            return Prediction(_nearest(first[0], size), None, outputs)
        if self.task == 'scores':
            scores = bilinear(first[0].transpose(1, 2, 0), size)  # (H, W, classes)
            labels = scores.argmax(-1) if scores.shape[-1] > 1 else (scores[..., 0] > 0).astype(np.int64)
            return Prediction(labels, None, outputs)
        if self.task == 'classes':
            powers = np.exp(first[0] - first[0].max())
            return Prediction(None, powers / powers.sum(), outputs)
        return Prediction(None, None, outputs)

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """Return the model's input of a picture: resized, normalised, float32 (3, h, w)."""
        recipe = self.preprocessing
        resized = resize(picture, recipe['resize'])
        if not isinstance(self._input.shape[2], str) and recipe['resize'] is None:  # of one size alone
            resized = _resized(resized, tuple(self._input.shape[2:]))
        return normalise(resized, recipe)

    def name(self, label: int) -> str:
        """Return the name of a class, or its number."""
        return self.classes[label] if self.classes is not None and label < len(self.classes) else f'class {label}'

    def paint(self, labels: np.ndarray) -> np.ndarray:
        """Return labels (H, W) as colours, uint8 (H, W, 3); of a palette's own where the file has none."""
        palette = self.palette
        if palette is None or labels.max(initial=0) >= len(palette):
            count = int(labels.max(initial=0)) + 1
            palette = np.random.default_rng(0).integers(40, 256, (count, 3)).astype(np.uint8)
        return palette[labels]


def read_picture(file: str | os.PathLike) -> np.ndarray:
    """Read a picture as an array (H, W, 3), RGB, uint8; or one of other bands, a ``.npy`` file, as it is.

    Args:
        file: Its path.

    Raises:
        ValueError: If it is missing or no picture.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> from mmvim.deploy.predict import read_picture
        >>> with tempfile.NamedTemporaryFile(suffix='.png') as file:
        ...     Image.new('RGB', (4, 3)).save(file.name)
        ...     read_picture(file.name).shape
        (3, 4, 3)
    """
    if str(file).lower().endswith('.npy'):
        try:
            found = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f'picture {file} cannot be read ({error}); give an array of NumPy') from error
        if found.ndim not in (2, 3):
            raise ValueError(f'picture {file} has the shape {found.shape}; give an array (H, W, C)')
        return found if found.ndim == 3 else found[..., None]
    try:
        return np.asarray(Image.open(file).convert('RGB'))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's for damaged files
        raise ValueError(f'picture {file} cannot be read ({error}); give a JPEG or PNG file') from error


def normalise(picture: np.ndarray, recipe: Mapping[str, Any]) -> np.ndarray:
    """Return a picture (H, W, 3), RGB, as a model's input, float32 (3, H, W).

    Args:
        picture: uint8.
        recipe: The preprocessing in the metadata.

    Examples:
        >>> import numpy as np
        >>> from mmvim.deploy.predict import normalise
        >>> picture = np.array([[[3, 2, 1]]], np.uint8)
        >>> normalise(picture, {'mean': [1, 1, 1], 'std': [1, 1, 1], 'channels': 'BGR'})[:, 0, 0].tolist()
        [0.0, 1.0, 2.0]
    """
    picture = picture if recipe['channels'] == 'RGB' else picture[..., ::-1]
    mean, std = (np.array(recipe[name], np.float32) for name in ('mean', 'std'))
    return np.ascontiguousarray(((picture.astype(np.float32) - mean) / std).transpose(2, 0, 1))


def resize(picture: np.ndarray, recipe: Mapping[str, Any] | None) -> np.ndarray:
    """Resize a picture as the metadata say.

    Args:
        picture: (H, W, 3), uint8; or of other bands and numbers, which are resized without Pillow alone.
        recipe: ``resize`` of the preprocessing.

    Returns:
        (h, w, C), uint8 or float32.

    Raises:
        ValueError: If Pillow is to resize other bands than three of bytes.

    Examples:
        >>> import numpy as np
        >>> from mmvim.deploy.predict import resize
        >>> resize(np.zeros((30, 40, 3), np.uint8), {'scale': [80, 90], 'keep_ratio': True}).shape
        (68, 90, 3)
    """
    if recipe is None:
        return picture
    height, width = picture.shape[:2]
    if 'scale' in recipe:
        size: Sequence[int] = recipe['scale'][::-1]
        if recipe['keep_ratio']:  # both sides at most: the longer to the longer, the shorter to the shorter
            ratio = min(max(size) / max(height, width), min(size) / min(height, width))
            size = [int(side * ratio + 0.5) for side in (height, width)]
        return _resized(picture, (size[0], size[1]))
    if picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError('Pillow resizes colours of 8 bits alone; bring the picture to its size before')
    short = recipe['short']
    if recipe['squash']:
        width, height = short, short
    elif width <= height:
        width, height = short, int(short * height / width)
    else:
        width, height = int(short * width / height), short
    method = _FILTERS[recipe['interpolation']]
    resized = np.asarray(Image.fromarray(picture).resize((width, height), method))
    crop = recipe['crop']
    if crop is None:
        return resized
    top, left = (max(0, round((side - crop) / 2)) for side in resized.shape[:2])
    return resized[top : top + crop, left : left + crop]


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a picture at another size; bytes stay bytes."""
    found = bilinear(picture, size)
    return np.rint(found).astype(np.uint8) if picture.dtype == np.uint8 else found


def bilinear(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an array between the centres of its cells, without smoothing, as OpenCV and PyTorch do.

    Args:
        x: (H, W, C).
        size: Height and width.

    Returns:
        (h, w, C), float32.

    Examples:
        >>> import numpy as np
        >>> from mmvim.deploy.predict import bilinear
        >>> bilinear(np.array([[[0.0], [4.0]]]), (1, 4))[0, :, 0].tolist()
        [0.0, 1.0, 3.0, 4.0]
    """
    x = x.astype(np.float32)
    for axis, side in enumerate(size):
        have = x.shape[axis]
        if have == side:
            continue
        place = np.clip((np.arange(side) + 0.5) * (have / side) - 0.5, 0, have - 1)
        low = np.floor(place).astype(np.int64)
        share = (place - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        x = np.take(x, low, axis) * (1 - share) + np.take(x, np.minimum(low + 1, have - 1), axis) * share
    return x


def _nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return labels (h, w) at another size: of the pixel in which the centre lies."""
    rows, columns = (
        np.minimum(((np.arange(side) + 0.5) * have / side).astype(np.int64), have - 1)
        for side, have in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]
