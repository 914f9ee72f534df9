"""The backbones that ``compare_backbones.py`` compares, each with about as many parameters, and their one recipe."""

from __future__ import annotations

import copy
import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from mmvim.models import SelectiveScan2D, VMamba
from mmvim.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / 'configs/_base_/camvid_upernet.py'
PARAMETERS, TOLERANCE = 1_100_000, 0.05  # of a backbone
PICTURE = (120, 160)  # height and width of the test pictures, a third of CamVid's


class WithoutScan(nn.Module):
    """What is left of a scan layer when the scan is the identity: projections, convolution, norm, gate.

    Nothing passes from cell to cell but through the 3 x 3 depthwise convolution. The layers that only make the scan's
    arguments are gone.

    Args:
        layer: The layer, whose other parts this one takes over.
    """

    def __init__(self, layer: SelectiveScan2D) -> None:
        super().__init__()
        self.gate = layer.gate
        self.in_proj, self.conv2d, self.out_norm, self.out_proj = (
            layer.in_proj,
            layer.conv2d,
            layer.out_norm,
            layer.out_proj,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        x = self.in_proj(x.permute(0, 2, 3, 1))  # (B, C, H, W) -> (B, H, W, d_inner or 2 * d_inner)
        x, z = x.chunk(2, dim=-1) if self.gate else (x, None)
        y = F.silu(self.conv2d(x.permute(0, 3, 1, 2)))  # (B, d_inner, H, W)
        y = self.out_norm(y.permute(0, 2, 3, 1))  # (B, H, W, d_inner)
        return self.out_proj(y if z is None else y * F.silu(z)).permute(0, 3, 1, 2)  # (B, C, H, W)


@MODELS.register_module(force=True)
class VMambaWithoutScan(VMamba):
    """A VMamba whose scans are the identity: the control, with everything else of the family.

    Examples:
        >>> import torch
        >>> arch = {'depths': (1, 1, 1, 1), 'dim': 8}
        >>> [tuple(y.shape) for y in VMambaWithoutScan(arch, out_indices=(0, 3))(torch.randn(1, 3, 64, 64))]
        [(1, 8, 16, 16), (1, 64, 2, 2)]
    """

    def build_block(self, stage: int, index: int, dim: int, drop_path_rate: float) -> nn.Module:
        """See the base class."""
        block: Any = super().build_block(stage, index, dim, drop_path_rate)
        block.op = WithoutScan(block.op)
        return block


@dataclass(frozen=True)
class Row:
    """A backbone of the comparison.

    Attributes:
        title: What tables call it.
        kind: 'mmvim' for a family, 'control', or 'peer' for one of MMSegmentation.
        family: Its key in ``mmvim.checkpoints.families.FAMILIES``; '' for a peer.
        backbone: Its config.
        channels: Of the four maps that the decoder takes.
        rescales: Of a plain backbone: how its maps become a pyramid. Defaults to (), a pyramid already.
        undecayed: Parts of names that weight decay spares, beside norms and biases. Defaults to ().
    """

    title: str
    kind: str
    family: str
    backbone: dict
    channels: tuple[int, ...]
    rescales: tuple[float, ...] = ()
    undecayed: tuple[str, ...] = ()


def _plain(kind: str, family: str, title: str, backbone: dict, up: float = 2.0, **more: Any) -> Row:
    """A backbone of one map: Feature2Pyramid makes four of strides 4 to 32, the first ``up`` times as fine as it is."""
    width = backbone.get('embed_dims') or backbone['arch']['embed_dims']
    backbone = {**backbone, 'img_size': PICTURE, 'drop_path_rate': 0.0}
    return Row(title, kind, family, backbone, (width,) * 4, (up, up / 2, up / 4, up / 8), **more)


def _pyramid(kind: str, family: str, title: str, width: int, backbone: dict, **more: Any) -> Row:
    return Row(title, kind, family, backbone, tuple(width * 2**stage for stage in range(4)), **more)


def _scanning(
    family: str, title: str, name: str, width: int, depths: tuple[int, ...] = (1, 1, 4, 1), **arch: Any
) -> Row:
    """A relative of VMamba."""
    backbone = {'type': f'mmvim.{name}', 'arch': {'depths': depths, 'dim': width, **arch}, 'drop_path_rate': 0.0}
    return _pyramid('control' if 'Without' in name else 'mmvim', family, title, width, backbone)


# Widths and depths make the parameters alike; all else is the family's own, but for the states of a channel, 8 where
# its authors have 16. No row has stochastic depth: the budget is far from overfitting.
_EIGHT = (1, 3, 5, 7)
ROWS: dict[str, Row] = {
    'vim': _plain(
        'mmvim',
        'vim',
        'Vim',
        {
            'type': 'mmvim.Vim',
            'arch': {'embed_dims': 132, 'depth': 8, 'd_state': 8},
            'patch_size': 8,
            'out_indices': _EIGHT,
        },
    ),
    'localvim': _plain(
        'mmvim',
        'localvim',
        'LocalVim',
        {
            'type': 'mmvim.LocalVim',
            'arch': {'embed_dims': 112, 'depth': 8, 'd_state': 8},
            'patch_size': 8,
            'out_indices': _EIGHT,
        },
    ),
    'plainmamba': _plain(
        'mmvim',
        'plainmamba',
        'PlainMamba',
        {
            'type': 'mmvim.PlainMamba',
            'arch': {'embed_dims': 116, 'depth': 8, 'd_state': 8, 'stem_dims': 32, 'stem_convs': 1},
            'out_indices': _EIGHT,
        },
        up=4.0,
    ),
    'vrwkv': _plain(
        'mmvim',
        'vrwkv',
        'Vision-RWKV',
        {
            'type': 'mmvim.VRWKV',
            'arch': {'embed_dims': 100, 'depth': 8},
            'patch_size': 8,
            'out_indices': _EIGHT,
        },
    ),
    'mambavision': _pyramid(
        'mmvim',
        'mambavision',
        'MambaVision',
        20,
        {
            'type': 'mmvim.MambaVision',
            'arch': {
                'depths': (1, 1, 4, 2),
                'dim': 20,
                'in_dim': 20,
                'num_heads': (1, 2, 4, 8),
                'window_sizes': (8, 8, 10, 5),  # the maps of a test picture whole
            },
            'drop_path_rate': 0.0,
        },
    ),
    'vmamba': _scanning('vmamba', 'VMamba', 'VMamba', 24),
    'localvmamba': _scanning('localvmamba', 'LocalVMamba', 'LocalVMamba', 27, d_state=8),
    'msvmamba': _scanning('msvmamba', 'MSVMamba', 'MSVMamba', 24),
    'efficientvmamba': _scanning('efficientvmamba', 'EfficientVMamba', 'EfficientVMamba', 28, (1, 1, 2, 1), d_state=8),
    'vmamba-noscan': _scanning('vmamba', 'VMamba without its scan', 'VMambaWithoutScan', 25),
    'resnet': _pyramid(
        'peer',
        '',
        'ResNet-18',
        20,
        {
            'type': 'ResNet',
            'depth': 18,
            'base_channels': 20,
            'stem_channels': 20,
            'num_stages': 4,
            'out_indices': (0, 1, 2, 3),
            'norm_cfg': {'type': 'BN'},
        },
    ),
    'vit': _plain(
        'peer',
        '',
        'ViT',
        {
            'type': 'VisionTransformer',
            'patch_size': 8,
            'embed_dims': 132,
            'num_layers': 5,
            'num_heads': 4,
            'with_cls_token': False,
            'out_indices': (1, 2, 3, 4),
        },
        undecayed=('pos_embed',),
    ),
    'swin': _pyramid(
        'peer',
        '',
        'Swin',
        24,
        {
            'type': 'SwinTransformer',
            'embed_dims': 24,
            'depths': (2, 2, 4, 1),
            'num_heads': (1, 2, 4, 8),
            'out_indices': (0, 1, 2, 3),
            'drop_path_rate': 0.0,
        },
        undecayed=('relative_position_bias_table',),
    ),
}


@dataclass(frozen=True)
class Budget:
    """What every row gets.

    Attributes:
        iterations: Steps of training.
        batch: Pictures a step.
        crop: Side of a training crop in pixels.
        lr: Highest learning rate of AdamW, after a tenth of the steps.
    """

    iterations: int = 600
    batch: int = 8
    crop: int = 96
    lr: float = 1e-3

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@functools.cache
def _base() -> Config:
    return Config.fromfile(BASE)


def config(name: str, seed: int, data_root: Path | str, budget: Budget) -> Config:
    """Return the config of a row: the base of ``configs/camvid``, with the row's backbone and the budget.

    Args:
        name: A key of ``ROWS``.
        seed: Of initial weights, the order of the pictures and their augmentation.
        data_root: The folder CamVid.
        budget: What every row gets.
    """
    row, cfg = ROWS[name], copy.deepcopy(_base())
    model = cfg.model
    model.backbone = row.backbone
    model.data_preprocessor.size = (budget.crop,) * 2
    if row.rescales:
        neck = {'type': 'Feature2Pyramid', 'embed_dim': row.channels[0], 'rescales': list(row.rescales)}
        model.neck = {**neck, 'norm_cfg': {'type': 'BN'}}
    model.decode_head.in_channels, model.auxiliary_head.in_channels = list(row.channels), row.channels[2]
    if row.kind == 'peer':  # no layer depths; without layer decay the stock constructor makes the same groups
        keys = {key: {'decay_mult': 0.0} for key in row.undecayed}
        cfg.optim_wrapper.constructor = 'DefaultOptimWrapperConstructor'
        cfg.optim_wrapper.paramwise_cfg = {'norm_decay_mult': 0.0, 'bias_decay_mult': 0.0, 'custom_keys': keys}
    cfg.optim_wrapper.optimizer.lr = budget.lr
    warmup = max(1, budget.iterations // 10)
    cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = warmup
    cfg.param_scheduler[1].end = cfg.train_cfg.max_iters = budget.iterations
    for transform in cfg.train_dataloader.dataset.pipeline:
        if transform.type == 'RandomCrop':
            transform.crop_size = (budget.crop,) * 2
    for part in ('train', 'test'):
        for transform in cfg[f'{part}_dataloader'].dataset.pipeline:
            if 'Resize' in transform.type:
                transform.scale = PICTURE[::-1]
    for part in ('train', 'test'):
        loader = cfg[f'{part}_dataloader']
        # The pictures are read by the process that trains: one thread does all, and a seed decides all.
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(data_root)
    cfg.train_dataloader.batch_size = budget.batch
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        cfg[key] = None
    cfg.train_cfg.pop('val_interval')
    cfg.default_hooks.checkpoint.update(interval=budget.iterations, save_optimizer=False, save_param_scheduler=False)
    cfg.randomness = {'seed': seed}
    return cfg
