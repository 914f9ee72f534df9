"""Parameters and floating-point operations of a model, the selective scan included.

Counted by PyTorch's ``FlopCounterMode`` while the model runs once: convolutions, matrix products and attention by
PyTorch's own formulas, the operators of mmvim by the formulas they register. Deformable attention is counted with its
sampling, which is run by PyTorch's ``grid_sample`` meanwhile. Norms, activations, interpolation and mmcv's operators
are not counted, as in other counters.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod

import torch
from mmengine.config import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmvim.models.backbones.common import picture_channels

# MMDetection's usual test size, and a usual crop where a config of MMSegmentation names none.
_DETECTION_SHAPE = (800, 1280)
_SEGMENTATION_SHAPE = (512, 512)


@dataclass(frozen=True)
class Complexity:
    """What a model, or a part of it, costs.

    Args:
        params: Number of parameters.
        flops: Floating-point operations of one forward pass; a multiply-add counts as two.
        scan_flops: The share of ``flops`` that the scans take.

    Examples:
        >>> from mmvim.analysis.flops import Complexity
        >>> Complexity(params=10, flops=300, scan_flops=100).macs
        200
    """

    params: int
    flops: int
    scan_flops: int

    @property
    def macs(self) -> int:
        """What papers and MMEngine call "FLOPs": a multiply-add counts as one, the scan's formula is added as it is."""
        return (self.flops - self.scan_flops) // 2 + self.scan_flops


class UncountedScanError(RuntimeError):
    """A model's scan ran on something other than an operator with a FLOP formula: the count would lack the scan.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.flops import UncountedScanError, count_complexity
        >>> from mmvim.models.layers import VimMixer
        >>> mixer = VimMixer(8, scan_backend='reference')
        >>> try:
        ...     count_complexity(mixer, lambda: mixer(torch.zeros(1, 4, 8)))
        ... except UncountedScanError as error:
        ...     print(error)
        the scan ran on a backend that has no FLOP formula
    """


def _cpu_attention(query: torch.Size, key: torch.Size, value: torch.Size, *args: object, **kwargs: object) -> int:
    """Count PyTorch's attention kernel on CPUs from its shapes; PyTorch has formulas for those on GPUs only."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _sampling(maps: torch.Size, points: torch.Size, *args: object, **kwargs: object) -> int:
    """Count the bilinear sampling of maps (B, C, h, w) at points (B, H, W, 2): four cells weighted for each number."""
    return 2 * 4 * maps[1] * prod(points[:-1])


_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    torch.ops.aten.grid_sampler_2d: _sampling,
}
# The scan of models that do not name theirs; a layer does so by an attribute ``scan_operator``.
_SCAN = 'mmvim::selective_scan'


def _named_scans(model: nn.Module) -> set[str]:
    """Return the scans that layers say they run: beginnings of operators' names."""
    found = (getattr(module, 'scan_operator', None) for module in model.modules())
    return {name for name in found if isinstance(name, str)}


def _is_one_of(operator: object, names: Iterable[str]) -> bool:
    return str(getattr(operator, '_qualified_op_name', operator)).startswith(tuple(names))


def count_complexity(model: nn.Module, forward: Callable[[], object], depth: int = 1) -> dict[str, Complexity]:
    """Count a model and its parts over one run, in evaluation mode and without gradients.

    An operation belongs to the innermost module that runs it, and to those that this one is a part of, whoever calls
    it: a stage has its downsampling, even where the backbone calls that after the stage.

    Args:
        model: The model.
        forward: Runs it once.
        depth: Levels of parts: 1 for the model's children, 2 for their children, too. Defaults to 1.

    Returns:
        '' is the whole model, the other keys are the names of its parts.

    Raises:
        ValueError: If ``depth`` is below 1.
        UncountedScanError: If a layer of the model names its scan (``scan_operator``) and none was counted.

    Examples:
        >>> import torch
        >>> from mmvim.analysis.flops import count_complexity
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> counts = count_complexity(model, lambda: model(torch.zeros(1, 4)))
        >>> counts[''].flops, counts['0'].flops, counts['1'].params  # 2 x (4 x 8 + 8 x 2), 2 x 4 x 8, 8 x 2 + 2
        (96, 64, 18)
    """
    if depth < 1:
        raise ValueError(f'depth={depth} must be at least 1')
    training = model.training
    model.eval()
    try:
        with (
            torch.no_grad(),
            FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter,
            _Owners(model) as own,
        ):
            own.read = lambda: dict(counter.flop_counts.get('Global', {}))
            forward()
    finally:
        model.train(training)
    total, named = counter.get_flop_counts().get('Global', {}), _named_scans(model)
    if not all(any(_is_one_of(operator, [name]) for operator in total) for name in named):
        raise UncountedScanError('the scan ran on a backend that has no FLOP formula')
    scans = {_SCAN, *named}
    counts = {'': Complexity(_params(model), *_sum(total, scans))}
    for name, part in model.named_modules():
        if name and name.count('.') < depth:
            counts[name] = Complexity(_params(part), *_sum(own.count(name), scans))
    return counts


class _Owners:
    """What each module of a model has run itself, without what its parts have: the counts between its begin and end."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.read: Callable[[], dict] = dict  # the counts so far, by operator
        self._own: dict[str, Counter] = {}
        self._running: list[tuple[Counter, Counter]] = []  # counts at the begin, and what parts have run since
        self._hooks: list = []

    def __enter__(self) -> '_Owners':
        for name, module in self.model.named_modules():
            self._hooks.append(module.register_forward_pre_hook(self._begin))
            self._hooks.append(module.register_forward_hook(self._end(name), always_call=True))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, *_: object) -> None:
        self._running.append((Counter(self.read()), Counter()))

    def _end(self, name: str) -> Callable:
        def end(*_: object) -> None:
            before, of_parts = self._running.pop()
            run = Counter(self.read()) - before
            self._own.setdefault(name, Counter()).update(run - of_parts)
            if self._running:
                self._running[-1][1].update(run)

        return end

    def count(self, name: str) -> Counter:
        """Return the counts of a module and its parts, by operator."""
        found: Counter = Counter()
        for other, own in self._own.items():
            if other == name or other.startswith(f'{name}.'):
                found.update(own)
        return found


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _sum(count: dict, scans: set[str]) -> tuple[int, int]:
    return sum(count.values()), sum(value for operator, value in count.items() if _is_one_of(operator, scans))


def default_shape(cfg: Config) -> tuple[int, int]:
    """Return the height and width at which a config's model is usually counted.

    Args:
        cfg: The config.

    Returns:
        The training crop (mmseg) if the config names one, else (512, 512); (800, 1280) for mmdet.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.analysis.flops import default_shape
        >>> default_shape(Config(dict(default_scope='mmseg', crop_size=(640, 640), model=dict())))
        (640, 640)
    """
    if cfg.get('default_scope') == 'mmdet':
        return _DETECTION_SHAPE
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    size = preprocessor.get('size') or cfg.get('crop_size') or _SEGMENTATION_SHAPE
    return (size, size) if isinstance(size, int) else tuple(size)


def forward_once(model: nn.Module, cfg: Config, shape: tuple[int, int]) -> Callable[[], object]:
    """Return a function that runs a segmentor or detector once on a random image, without its post-processing.

    The image has as many channels as the model's first convolution takes.
    A two-stage detector runs its heads on the proposals that its weights give for the image.

    Args:
        model: The model.
        cfg: Its config.
        shape: Height and width; a detector's image is padded as its preprocessor does.

    Returns:
        The function, which takes no arguments and returns the model's raw output.

    Examples:
        >>> import torch
        >>> from mmengine.config import Config
        >>> from mmvim.analysis.flops import forward_once
        >>> class Segmentor(torch.nn.Conv2d):
        ...     def forward(self, inputs, mode):
        ...         return super().forward(inputs)
        >>> forward_once(Segmentor(3, 2, 1), Config(dict(default_scope='mmseg')), (8, 16))().shape
        torch.Size([1, 2, 8, 16])
    """
    device, channels = next(model.parameters()).device, picture_channels(model)
    if cfg.get('default_scope') != 'mmdet':
        inputs = torch.rand(1, channels, *shape, device=device)
        return lambda: model(inputs, mode='tensor')
    from mmdet.structures import DetDataSample

    divisor = getattr(model.data_preprocessor, 'pad_size_divisor', 1)
    padded = tuple(-(-side // divisor) * divisor for side in shape)
    inputs = torch.rand(1, channels, *padded, device=device)
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
