"""A first step on tensors without memory, so that what ends a run at iteration 1 is told before anything is written."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from mmvim.cli.errors import USAGE, UserError, describe, warn
from mmvim.cli.noise import quiet
from mmvim.models.backbones.common import picture_channels

# What takes the feature maps of a segmentor or a one-stage detector, and of the first stage of others.
_HEADS = ('decode_head', 'auxiliary_head', 'rpn_head')
_SIDE = 512  # of a picture, where the config does not fix one
_BATCH_NORM = 'more than 1 value per channel'
# Of PyTorch where shapes do not meet: a convolution, a matrix product, a norm, an addition.
_SHAPES = ('to have', 'cannot be multiplied', 'Given normalized_shape', 'must match', 'shapes', 'size of tensor')
_WORLD_SIZES = {'pytorch': 'WORLD_SIZE', 'slurm': 'SLURM_NTASKS', 'mpi': 'OMPI_COMM_WORLD_SIZE'}


def check_first_step(cfg: Config, model: nn.Module) -> None:
    """Check that features pass from the backbone through neck and heads in training, with the batch that a process has.

    Nothing is computed: shapes alone pass through the model. Heads that need more than features are left out.

    Args:
        cfg: The config.
        model: The model, as :func:`mmvim.cli.build_model` returns it.

    Raises:
        UserError: If a batch norm gets a single value per channel, as UPerNet's does after pooling to 1 x 1 where a
            process has one picture; or if a neck or a head is made for other features than it is given.

    Examples:
        >>> from mmengine.config import Config
        >>> from torch import nn
        >>> from mmvim.cli import UserError
        >>> from mmvim.cli.first_step import check_first_step
        >>> class Segmentor(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1))
        ...         self.decode_head = nn.BatchNorm2d(8)
        >>> try:
        ...     check_first_step(Config(dict(train_dataloader=dict(batch_size=1))), Segmentor())
        ... except UserError as error:
        ...     print(str(error).split('; ')[0])
        train_dataloader.batch_size=1 gives the batch norm decode_head one value a channel, and training needs two
    """
    batch, processes = (cfg.get('train_dataloader') or {}).get('batch_size'), process_count(cfg)
    if not isinstance(batch, int) or batch < 1 or not hasattr(model, 'backbone'):
        return
    joint = batch * processes if _has_type(cfg.get('model'), ('SyncBN', 'MMSyncBN')) else batch
    entered: list[str] = []
    norms = [(name, part) for name, part in model.named_modules() if isinstance(part, _BatchNorm)]
    handles = [part.register_forward_pre_hook(_note(entered, name)) for name, part in norms]
    try:
        problem = _walk(model, joint, picture_size(cfg))
    finally:
        for handle in handles:
            handle.remove()
    if problem is None:
        return
    part, error = problem
    if _BATCH_NORM in str(error):
        raise UserError(
            f'train_dataloader.batch_size={batch} gives the batch norm {entered[-1] if entered else part} one value a '
            'channel, and training needs two',
            'pass --cfg-options train_dataloader.batch_size=2 or more, with --auto-scale-lr',
        )
    raise UserError(
        f'{part} cannot take what it is given in the first iteration: {describe(error)}',
        f'correct model.{part} (in_channels, in_index) or out_indices of model.backbone',
        USAGE,
    )


def takes_bands(model: nn.Module, bands: int, size: tuple[int, int]) -> bool:
    """Check whether pictures of some bands enter a backbone, on shapes alone.

    Args:
        model: A backbone, or a model with one under the name ``backbone``.
        bands: Channels of the pictures.
        size: Their height and width.

    Returns:
        False if the backbone is made for another number; True otherwise, also where it does not run on shapes alone.

    Examples:
        >>> from torch import nn
        >>> from mmvim.cli.first_step import takes_bands
        >>> takes_bands(nn.Conv2d(5, 8, 4), 5, (32, 32)), takes_bands(nn.Conv2d(5, 8, 4), 3, (32, 32))
        (True, False)
    """
    backbone = getattr(model, 'backbone', None)
    part = backbone if isinstance(backbone, nn.Module) else model
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad(), quiet():
        try:
            _run(mode, part, torch.empty(2, bands, *size))
        except (RuntimeError, ValueError, AssertionError) as error:
            return not any(words in str(error) for words in (*_SHAPES, 'channels'))
        except Exception:  # whatever cannot run without data (a look must not end a run that would work)
            return True
    return True


def warn_of_batch(cfg: Config) -> None:
    """Print a warning if a run has another batch than the one that its learning rate is meant for.

    Args:
        cfg: The config, ``--auto-scale-lr`` applied.

    Examples:
        >>> import contextlib, sys
        >>> from mmengine.config import Config
        >>> from mmvim.cli.first_step import warn_of_batch
        >>> cfg = Config(dict(train_dataloader=dict(batch_size=2), auto_scale_lr=dict(base_batch_size=16)))
        >>> with contextlib.redirect_stderr(sys.stdout):
        ...     warn_of_batch(cfg)
        warning: 2 pictures an iteration, and the learning rate is meant for 16: --auto-scale-lr fits it to them
    """
    scaling, batch = cfg.get('auto_scale_lr') or {}, (cfg.get('train_dataloader') or {}).get('batch_size')
    base = scaling.get('base_batch_size')
    if scaling.get('enable') or not isinstance(batch, int) or not base:
        return
    accumulated = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
    pictures = batch * process_count(cfg) * accumulated
    if pictures != base:
        warn(
            f'{pictures} picture{"s" if pictures > 1 else ""} an iteration, and the learning rate is meant for {base}: '
            '--auto-scale-lr fits it to them'
        )


def process_count(cfg: Config) -> int:
    """Return how many processes train together, as the launcher says.

    Args:
        cfg: The config with its ``launcher``.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli.first_step import process_count
        >>> process_count(Config(dict(launcher='none')))
        1
    """
    return int(os.environ.get(_WORLD_SIZES.get(cfg.get('launcher', 'none'), ''), '1'))


def picture_size(cfg: Config) -> tuple[int, int]:
    """Return height and width of the pictures that a model is trained on, as far as the config fixes them.

    Args:
        cfg: The config.

    Returns:
        The size that the preprocessor pads to, else that of the crop, else 512 x 512.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli.first_step import picture_size
        >>> picture_size(Config(dict(model=dict(data_preprocessor=dict(size=(160, 320))))))
        (160, 320)
    """
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    sizes = [preprocessor.get('size'), *_crops((cfg.get('train_dataloader') or {}).get('dataset'))]
    size = next((size for size in sizes if size), _SIDE)
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if len(size) == 2 else (_SIDE, _SIDE)


def _crops(node: object) -> Iterator[Any]:
    if isinstance(node, dict):
        if node.get('crop_size') is not None and not isinstance(node['crop_size'], float):
            yield node['crop_size']
        node = list(node.values())
    for child in node if isinstance(node, (list, tuple)) else ():
        yield from _crops(child)


def _has_type(node: object, names: tuple[str, ...]) -> bool:
    if isinstance(node, dict):
        return node.get('type') in names or any(_has_type(child, names) for child in node.values())
    return isinstance(node, (list, tuple)) and any(_has_type(child, names) for child in node)


def _note(entered: list[str], name: str) -> Any:
    return lambda module, inputs: entered.append(name)


class _Part(nn.Module):
    """A part of a model under a name of its own, for :func:`torch.func.functional_call`."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Any) -> Any:
        return self.part(x)


def _run(mode: FakeTensorMode, part: nn.Module, x: Any) -> Any:
    """Return what a part of a model makes of tensors without memory."""
    wrapped = _Part(part)
    tensors = {**dict(wrapped.named_parameters()), **dict(wrapped.named_buffers())}
    fakes: dict[str, torch.Tensor] = {name: mode.from_tensor(value) for name, value in tensors.items()}
    return functional_call(wrapped, fakes, (x,))


def _walk(model: nn.Module, batch: int, size: tuple[int, int]) -> tuple[str, Exception] | None:
    """Return the part of the model at which shapes do not pass, and the error; None if they do."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad(), quiet():
        name, x = 'backbone', torch.empty(batch, picture_channels(model), *size)
        try:
            x = _run(mode, model.get_submodule('backbone'), x)
            if isinstance(getattr(model, 'neck', None), nn.Module):
                name = 'neck'
                x = _run(mode, model.get_submodule(name), x)
            for head in _heads_on_maps(model):
                found = getattr(model, head, None)
                for number, part in enumerate(found if isinstance(found, nn.ModuleList) else [found]):
                    name = f'{head}.{number}' if isinstance(found, nn.ModuleList) else head
                    if isinstance(part, nn.Module):
                        _run(mode, part, x)
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            # Other errors are those of parts that cannot run on shapes alone, or that take more than features.
            shape = any(words in str(error) for words in _SHAPES) or isinstance(error, (AssertionError, IndexError))
            if _BATCH_NORM in str(error) or (shape and name != 'backbone'):
                return name, error
        except Exception:  # whatever cannot run without data (a look must not end a run that would work)
            return None
    return None


def _heads_on_maps(model: nn.Module) -> tuple[str, ...]:
    # The box head of other detectors takes regions, or what a transformer has made of the maps.
    one_stage = any(kind.__name__ == 'SingleStageDetector' for kind in type(model).__mro__)
    return (*_HEADS, 'bbox_head') if one_stage else _HEADS
