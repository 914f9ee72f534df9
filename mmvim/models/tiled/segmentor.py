"""A segmentor of MMSegmentation that is run tile by tile."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmvim.models.tiled.blend import Block, blended_blocks, lay_tiles
from mmvim.registry import MODELS


@MODELS.register_module()
class TiledSegmentor(BaseTTAModel):
    """Predict pictures of any size by a segmentor, in memory that does not grow with them beyond a few bytes a pixel.

    MMSegmentation's own ``mode='slide'`` keeps every class's score of every pixel: 60 GB for 10,000 x 10,000 pixels and
    150 classes. Here a block is decided as soon as its tiles are done. The seams are blended: a tile counts less
    towards its edges. As a model for test-time augmentation it stands around another in a config, and checkpoints are
    loaded into that one:

        model = dict(type='mmvim.TiledSegmentor', module={{_base_.model}}, tile=1024, overlap=256)

    ``mmvim test --tile`` does the same. The results have ``pred_sem_seg`` alone, int16 on the CPU, and no scores.
    Pictures are cut as the test pipeline hands them over, so that one with ``Resize`` makes small ones of large ones.
    It is for prediction: train the segmentor itself.

    Args:
        module: The segmentor, or its config: one with ``encode_decode``, as ``EncoderDecoder`` has it.
        tile: Height and width of a tile in pixels; one number for both. Defaults to 512.
        overlap: Least number of pixels that neighbouring tiles share. Defaults to None, a quarter of the smaller side.
        memory_mb: What the sums of unfinished blocks may take, in MB. Less of it means that more tiles are computed
            twice. Defaults to 512.
        data_preprocessor: That of the segmentor, where its config has none. Defaults to None.
        pretrained: Accepted because MMSegmentation's ``init_model`` sets it; it must be None. Defaults to None.
        train_cfg: Likewise.

    Raises:
        ValueError: If a size is out of range.
        TypeError: If ``module`` is no segmentor.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from mmvim.models import TiledSegmentor
        >>> class Segmentor(nn.Conv2d):  # of two classes
        ...     out_channels, align_corners = 2, False
        ...     def test_step(self, data): ...
        ...     def data_preprocessor(self, data, training):
        ...         return {'inputs': torch.stack(data['inputs']).float()}
        ...     def encode_decode(self, inputs, metas):
        ...         return self(inputs)
        >>> model = TiledSegmentor(Segmentor(3, 2, 1), tile=16, overlap=4)
        >>> model.labels(torch.rand(3, 40, 24)).shape
        torch.Size([40, 24])
    """

    def __init__(
        self,
        module: dict | nn.Module,
        tile: int | Sequence[int] = 512,
        overlap: int | None = None,
        memory_mb: int = 512,
        data_preprocessor: dict | None = None,
        pretrained: None = None,
        train_cfg: dict | None = None,
    ) -> None:
        sizes = check_tile(tile, overlap)
        if type(memory_mb) is not int or memory_mb < 1:
            raise ValueError(f'memory_mb={memory_mb!r} must be a whole number of MB from 1')
        if pretrained is not None:
            raise ValueError('pretrained is of the segmentor: set it there, or give a checkpoint')
        own = isinstance(module, dict) and module.get('data_preprocessor') is not None
        super().__init__(module, None if own else data_preprocessor)
        if not hasattr(self.module, 'encode_decode'):
            raise TypeError(
                f'tiles are for segmentors with encode_decode, as EncoderDecoder, and {type(self.module).__name__} has '
                'none'
            )
        self.tile, self.overlap = sizes
        self.memory = memory_mb * 10**6

    def merge_preds(self, data_samples_list: list) -> list:
        """Return the predictions: there is nothing to merge, for each picture is predicted once."""
        return [samples[0] for samples in data_samples_list]

    def test_step(self, data: dict | Sequence) -> list:
        """Predict the pictures of a batch, one after the other.

        Args:
            data: ``inputs``, a list of pictures (C, H, W) as loaded, and ``data_samples``, as MMSegmentation packs
                them.

        Returns:
            The data samples, each with ``pred_sem_seg`` at the size of the file.
        """
        inputs, samples = (data['inputs'], data.get('data_samples')) if isinstance(data, dict) else data
        if samples is None:
            from mmseg.structures import SegDataSample

            samples = [SegDataSample() for _ in inputs]
        for picture, sample in zip(inputs, samples, strict=True):
            labels = self.labels(picture)
            size = tuple(sample.metainfo.get('ori_shape') or labels.shape)
            sample.set_data({'pred_sem_seg': PixelData(data=nearest(labels, size)[None])})
        return list(samples)

    def val_step(self, data: dict | Sequence) -> list:
        """Predict as in a test."""
        return self.test_step(data)

    def labels(self, picture: Tensor) -> Tensor:
        """Return the class of each pixel.

        Args:
            picture: (C, H, W) as loaded, on any device.

        Returns:
            (H, W) int16, on the CPU.
        """
        height, width = picture.shape[1:]
        found = torch.empty(height, width, dtype=torch.int16)
        for block, part in self.decide(lambda rows, columns: picture[:, rows, columns], height, width):
            found[block.row : block.row + part.shape[0], block.column : block.column + part.shape[1]] = part.cpu()
        return found

    def decide(self, read: Callable[[slice, slice], Tensor], height: int, width: int) -> Iterator[tuple[Block, Tensor]]:
        """Yield the blocks of a picture that need not be in memory, and the class of each of their pixels.

        Args:
            read: Returns a part of the picture, by its rows and columns, (C, h, w) as loaded.
            height: Of the picture.
            width: Likewise.
        """
        rows, columns = (
            lay_tiles(side, tile, min(self.overlap, tile - 1))
            for side, tile in zip((height, width), self.tile, strict=True)
        )

        def logits_of(y: int, x: int) -> Tensor:
            return tile_logits(self.module, read(slice(y, y + rows.tile), slice(x, x + columns.tile)))

        device = next(self.module.parameters()).device
        threshold = getattr(getattr(self.module, 'decode_head', None), 'threshold', None)
        for block in blended_blocks(logits_of, rows, columns, self.module.out_channels, self.memory, device):
            if len(block.logits) > 1:
                yield block, block.logits.argmax(0).to(torch.int16)
            else:
                yield block, (block.logits[0].sigmoid() > (0.3 if threshold is None else threshold)).to(torch.int16)


@torch.no_grad()
def tile_logits(model: nn.Module, tile: Tensor) -> Tensor:
    """Return what a segmentor says of one tile.

    Args:
        model: The segmentor.
        tile: (C, h, w) as loaded.

    Returns:
        (classes, h, w), on the model's device.
    """
    samples = None
    if getattr(model.data_preprocessor, 'test_cfg', None):  # it pads, and tells the samples
        from mmseg.structures import SegDataSample

        samples = [SegDataSample()]
    inputs = model.data_preprocessor({'inputs': [tile], 'data_samples': samples}, False)['inputs']
    size = inputs.shape[2:]
    meta: dict[str, Any] = {'img_shape': size, 'ori_shape': size, 'pad_shape': size}
    return model.encode_decode(inputs, [meta])[0, :, : tile.shape[1], : tile.shape[2]]  # padding is below and right


def nearest(labels: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return labels (H, W) at another size, each of the pixel in which its centre lies.

    Args:
        labels: (H, W) of any dtype.
        size: Height and width.

    Examples:
        >>> import torch
        >>> from mmvim.models.tiled.segmentor import nearest
        >>> nearest(torch.tensor([[1, 2]]), (1, 4)).tolist()
        [[1, 1, 2, 2]]
    """
    for axis, (have, want) in enumerate(zip(labels.shape, size, strict=False)):
        if have != want:
            place = ((torch.arange(want) + 0.5) * have / want).long().clamp(max=have - 1)
            labels = labels.index_select(axis, place)
    return labels


def check_tile(tile: int | Sequence[int], overlap: int | None) -> tuple[tuple[int, int], int]:
    """Return height and width of a tile, and the least overlap.

    Args:
        tile: One number or two.
        overlap: Or None, for a quarter of the smaller side.

    Raises:
        ValueError: If one is out of range.

    Examples:
        >>> from mmvim.models.tiled.segmentor import check_tile
        >>> check_tile(512, None)
        ((512, 512), 128)
    """
    sides = _pair(tile) if isinstance(tile, int) else tuple(tile)
    if len(sides) != 2 or any(type(side) is not int or side < 16 for side in sides):
        raise ValueError(f'tile={tile!r} must be one or two whole numbers of pixels from 16')
    if overlap is None:
        overlap = min(sides) // 4
    if type(overlap) is not int or not 0 <= overlap <= min(sides) // 2:
        raise ValueError(f'overlap={overlap!r} must be a whole number from 0 to half of the tile, {min(sides) // 2}')
    return (int(sides[0]), int(sides[1])), overlap
