"""Parameters and floating-point operations of a model, the selective scan included.

Counted by PyTorch's ``FlopCounterMode`` while the model runs once: convolutions, matrix products and attention by
PyTorch's own formulas, the operators of mmvim by the formulas they register. Norms, activations, interpolation and
mmcv's operators are not counted, as in other counters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from mmengine.config import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmvim.models.layers import MambaVisionMixer, SelectiveScan2D, VimMixer
from mmvim.ops.backends import resolve

# MMDetection's usual test size, and a usual crop where a config of MMSegmentation names none.
_DETECTION_SHAPE = (800, 1280)
_SEGMENTATION_SHAPE = (512, 512)


@dataclass(frozen=True)
class Complexity:
    """What a model, or a part of it, costs.

    Attributes:
        params: Number of parameters.
        flops: Floating-point operations of one forward pass, a multiply-add as two.
        scan_flops: Those of `flops` that operators of mmvim take.
    """

    params: int
    flops: int
    scan_flops: int

    @property
    def macs(self) -> int:
        """As papers and MMEngine count "FLOPs": a multiply-add as one, the scan's formula added as it is."""
        return (self.flops - self.scan_flops) // 2 + self.scan_flops


class UncountedScanError(RuntimeError):
    """A model scanned by other means than an operator with a FLOP formula, so that its count would lack the scan."""


def _cpu_attention(query, key, value, *args, out_shape=None, **kwargs) -> int:
    """PyTorch has formulas for its attention kernels on GPUs, and none for the one on CPUs."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


_MIXERS = (MambaVisionMixer, SelectiveScan2D, VimMixer)
_FORMULAS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention}


def _is_scan(operator) -> bool:
    name = str(getattr(operator, '_qualified_op_name', operator))
    return name.startswith(('mmvim::selective_scan', 'mmvim_native::scan'))


def count_complexity(model: nn.Module, forward: Callable[[], object]) -> dict[str, Complexity]:
    """Count a model and its direct children over one run, in evaluation mode and without gradients.

    Args:
        model (nn.Module): The model.
        forward (Callable): Runs it once.

    Returns:
        dict[str, Complexity]: '' is the whole model, the other keys are the names of its children.

    Raises:
        UncountedScanError: If a mixer of mmvim is in the model and no scan was counted.
    """
    resolve(None, 'cpu')  # the C++ scan, where it is to run, brings its formulas when it is loaded
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
            forward()
    finally:
        model.train(training)
    counts = counter.get_flop_counts()
    whole = Complexity(_params(model), *_sum(counts.get('Global', {})))
    if whole.scan_flops == 0 and any(isinstance(m, _MIXERS) for m in model.modules()):
        raise UncountedScanError('the scan ran on a backend that has no FLOP formula')
    parts = {}
    for name, child in model.named_children():
        flops = _part(child, f'{type(model).__name__}.{name}', counts)
        parts[name] = Complexity(_params(child), *flops)
    return {'': whole, **parts}


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _sum(count: dict) -> tuple[int, int]:
    return sum(count.values()), sum(value for op, value in count.items() if _is_scan(op))


def _part(module: nn.Module, name: str, counts: dict) -> tuple[int, int]:
    """A module that was called has a count of its own; one whose ``forward`` was called directly has its children's."""
    if name in counts:
        return _sum(counts[name])
    parts = [_part(child, f'{name}.{key}', counts) for key, child in module.named_children()]
    return sum(p[0] for p in parts), sum(p[1] for p in parts)


def default_shape(cfg: Config) -> tuple[int, int]:
    """Height and width at which a config's model is usually counted.

    Returns:
        tuple[int, int]: The training crop (mmseg) if the config names one, else (512, 512); (800, 1280) for mmdet.
    """
    if cfg.get('default_scope') == 'mmdet':
        return _DETECTION_SHAPE
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    size = preprocessor.get('size') or cfg.get('crop_size') or _SEGMENTATION_SHAPE
    return (size, size) if isinstance(size, int) else tuple(size)


def forward_once(model: nn.Module, cfg: Config, shape: tuple[int, int]) -> Callable[[], object]:
    """A function that runs a segmentor or detector on one random picture, without post-processing where it has that.

    A two-stage detector runs its heads on the proposals that its weights give for the picture.

    Args:
        model (nn.Module): The model.
        cfg (Config): Its config.
        shape (tuple[int, int]): Height and width; a detector's picture is padded as its preprocessor does.
    """
    device = next(model.parameters()).device
    if cfg.get('default_scope') != 'mmdet':
        inputs = torch.rand(1, 3, *shape, device=device)
        return lambda: model(inputs, mode='tensor')
    from mmdet.structures import DetDataSample

    divisor = getattr(model.data_preprocessor, 'pad_size_divisor', 1)
    padded = tuple(-(-side // divisor) * divisor for side in shape)
    inputs = torch.rand(1, 3, *padded, device=device)
    sample = DetDataSample(
        metainfo={
            'img_shape': shape,
            'ori_shape': shape,
            'pad_shape': padded,
            'batch_input_shape': padded,
            'scale_factor': (1.0, 1.0),
        }
    )
    return lambda: model(inputs, [sample], mode='tensor')
