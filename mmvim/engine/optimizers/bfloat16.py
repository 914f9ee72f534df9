"""Training in bfloat16, on CPUs too, where MMEngine's wrapper for mixed precision wants an accelerator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmvim.registry import OPTIM_WRAPPERS

# mmcv's compiled operators have no kernels for bfloat16. Losses gain by float32 anyway, and MMDetection's focal loss is
# such an operator on GPUs.
_OPERATORS = 'mmcv.ops.'
_IN_FLOAT32 = (_OPERATORS, 'mmdet.models.losses.')
# Heads whose outputs are made into boxes and handed to NMS, which takes float32 on CPUs.
_FOR_BOXES = ('mmdet.models.dense_heads.', 'mmdet.models.roi_heads.')


class _Float32Region:
    """A pair of hooks around one module: it computes in float32 while all around it is in bfloat16."""

    def __init__(self, restore: bool) -> None:
        self.restore = restore
        self.open: list[tuple[torch.autocast, torch.dtype] | None] = []

    def enter(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Widen the inputs, and switch autocasting off."""
        given = next((x for x in _tensors((args, kwargs)) if x.is_floating_point()), None)
        if given is None or not torch.is_autocast_enabled(given.device.type):
            self.open.append(None)
            return args, kwargs
        off = torch.autocast(given.device.type, enabled=False)
        off.__enter__()
        self.open.append((off, given.dtype))
        return _cast(args, torch.float32), _cast(kwargs, torch.float32)

    def leave(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """Switch autocasting on again, also after an exception, and narrow what an operator returns."""
        state = self.open.pop() if self.open else None
        if state is None:
            return output
        state[0].__exit__(None, None, None)
        return _cast(output, state[1]) if self.restore else output


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Return a nested value whose bfloat16 tensors, or for bfloat16 its float32 ones, have another dtype."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype in (torch.bfloat16, torch.float32) else value
    if type(value) in (tuple, list):
        return type(value)(_cast(item, dtype) for item in value)
    return {key: _cast(item, dtype) for key, item in value.items()} if type(value) is dict else value


def compute_in_float32(model: nn.Module) -> int:
    """Make the parts of a model that have no bfloat16 kernels compute in float32 wherever autocasting is on.

    These are mmcv's operators (RoIAlign, deformable convolutions and attention) and MMDetection's losses; the outputs
    of its heads become float32, too, for NMS. Calling it again changes nothing.

    Args:
        model: The model, changed in place.

    Returns:
        How many parts there are.

    Examples:
        >>> from torch import nn
        >>> from mmvim.engine.optimizers.bfloat16 import compute_in_float32
        >>> compute_in_float32(nn.Linear(2, 2))
        0
    """
    found = 0
    for module in model.modules():
        origin = f'{type(module).__module__}.'
        if not origin.startswith((*_IN_FLOAT32, *_FOR_BOXES)):
            continue
        found += 1
        if _is_prepared(module):
            continue
        if origin.startswith(_FOR_BOXES):
            module.register_forward_hook(_widen)
        else:
            region = _Float32Region(restore=origin.startswith(_OPERATORS))
            module.register_forward_pre_hook(region.enter, with_kwargs=True)
            module.register_forward_hook(region.leave, always_call=True)
    return found


def _widen(module: nn.Module, args: tuple, output: Any) -> Any:
    """Return what a head puts out in float32."""
    return _cast(output, torch.float32)


def _is_prepared(module: nn.Module) -> bool:
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return any(hook is _widen or isinstance(getattr(hook, '__self__', None), _Float32Region) for hook in hooks)


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """Run the forward pass of training in bfloat16 where that is safe, on a CPU or a GPU; weights stay float32.

    bfloat16 has float32's range, so that no loss is scaled. What ``torch.autocast`` keeps in float32 stays so, and so
    do the scans' states and weights, the operators of mmcv (which have no bfloat16) and MMDetection's losses.
    ``--amp bf16`` of ``mmvim train`` puts this wrapper in place of the config's.

    Args:
        **kwargs: Those of MMEngine's ``OptimWrapper``: ``optimizer``, ``clip_grad``, ``accumulative_counts``.

    Examples:
        >>> import torch
        >>> from mmvim.engine.optimizers import Bfloat16OptimWrapper
        >>> model = torch.nn.Linear(4, 2)
        >>> wrapper = Bfloat16OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        >>> with wrapper.optim_context(model):
        ...     output = model(torch.ones(1, 4, device=next(model.parameters()).device))
        >>> output.dtype, model.weight.dtype
        (torch.bfloat16, torch.float32)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._prepared: int | None = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter autocasting, and what MMEngine's wrapper enters for accumulated gradients.

        Args:
            model: The model, whose parts without bfloat16 kernels are told to compute in float32.
        """
        if self._prepared != id(model):
            compute_in_float32(model)
            self._prepared = id(model)
        device = next((p.device.type for p in model.parameters()), get_device())
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
