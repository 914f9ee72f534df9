"""The models of the CPU table: mmvim's smallest of every family, and MMSegmentation's own, each with its segmentor."""

import functools
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch
from taking_turns import ROOT
from torch import nn

REFERENCES = ('DeiT-T, fused', 'Swin-T')
PARTS = ('backbone', 'whole')
PAPER = 'https://arxiv.org/abs/2401.09417'
ZOO = 'https://github.com/open-mmlab/mmsegmentation'


class Model(NamedTuple):
    """A model of the table.

    Attributes:
        config: Of its segmentor on ADE20K; below ``configs/``, or ``mmseg::``.
        miou: Published for it at 512 x 512, single scale; None if nothing is.
        source: Who published it.
    """

    config: str
    miou: float | None
    source: str

    @property
    def own(self) -> bool:
        """Whether it is mmvim's."""
        return not self.config.startswith('mmseg::')


FITTING = 'MambaVision-T, fitting windows'  # as large as the map; the published ones are mostly padding at 512
_SCHEDULE = 'upernet_8xb2-160k_ade20k-512x512.py'
OWN = {
    'Vim-T': f'vim/vim-tiny_{_SCHEDULE}',
    'MambaVision-T': 'mambavision/mambavision-tiny_upernet_16xb1-amp-160k_ade20k-512x512.py',
    'VMamba-T': f'vmamba/vmamba-tiny_{_SCHEDULE}',
    'MSVMamba-T': f'msvmamba/msvmamba-tiny_{_SCHEDULE}',
    'LocalVMamba-T': f'localvmamba/localvmamba-tiny_{_SCHEDULE}',
    'EfficientVMamba-T': f'efficientvmamba/efficientvmamba-tiny_{_SCHEDULE}',
    'PlainMamba-L1': f'plainmamba/plainmamba-l1_{_SCHEDULE}',
    'LocalVim-T': f'localvim/localvim-tiny_{_SCHEDULE}',
    'VRWKV-T': 'vrwkv/vrwkv-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
    'VRWKV-T, ViT-Adapter': 'vrwkv/vrwkv-adapter-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
}
_DEIT = 'mmseg::vit/vit_deit-s16_upernet_8xb2-160k_ade20k-512x512.py'  # narrowed to T
PEERS = {
    'Swin-T': Model('mmseg::swin/swin-tiny-patch4-window7-in1k-pre_' + _SCHEDULE, 44.41, ZOO),
    'DeiT-T, fused': Model(_DEIT, 39.2, PAPER),
    'DeiT-T, plain': Model(_DEIT, 39.2, PAPER),
    'ResNet-50': Model('mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py', 42.05, ZOO),
    'MiT-B0, SegFormer': Model('mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', 37.41, ZOO),
    'MobileNetV2, DeepLabV3+': Model(
        'mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb4-160k_ade20k-512x512.py', 34.02, ZOO
    ),
}


@functools.cache
def models() -> dict[str, Model]:
    """Return all models by name; mmvim's with what their metafiles say was published."""
    import yaml

    published = {}
    for path in yaml.safe_load((ROOT / 'model-index.yml').read_text('utf-8'))['Import']:
        for entry in yaml.safe_load((ROOT / path).read_text('utf-8'))['Models']:
            published[entry['Config'].removeprefix('configs/')] = entry['Metadata']['Published']
    own = {name: Model(path, published[path]['value'], published[path]['source']) for name, path in OWN.items()}
    return {**own, FITTING: own['MambaVision-T']._replace(miou=None, source=''), **PEERS}


def file_of(model: Model) -> Path:
    """Return the path of a model's config."""
    if model.own:
        return ROOT / 'configs' / model.config
    import mmseg

    return Path(mmseg.__file__).parent / '.mim/configs' / model.config.removeprefix('mmseg::')


def make(name: str, part: str, side: int) -> nn.Module:
    """Build a model with the same random weights each time, in eval mode; a picture in, tensors out.

    Args:
        name: Of :func:`models`.
        part: 'backbone', or 'whole', up to the scores of all pixels.
        side: Of the pictures, in pixels.
    """
    from mmengine.config import Config

    from mmvim.cli import build_model, load_config
    from mmvim.deploy.parts import Features, Segmentor

    cfg = load_config(str(file_of(models()[name])), None)
    cfg.model.pop('pretrained', None)
    backbone = cfg.model.backbone
    backbone.pop('init_cfg', None)
    if name == FITTING:
        backbone.window_sizes = (8, 8, *(ceil(side / stride) for stride in (16, 32)))
    if name.startswith('DeiT-T'):
        backbone.update(embed_dims=192, num_heads=3)
        cfg.model.neck.update(in_channels=[192] * 4, out_channels=192) if cfg.model.get('neck') else None
        cfg.model.decode_head.in_channels = [192] * 4
        cfg.model.auxiliary_head.in_channels = 192
    inner = backbone.get('backbone', backbone)  # of an adapter
    inner.pop('init_cfg', None)
    if 'img_size' in inner:
        inner.img_size = side
    torch.manual_seed(0)
    if part == 'whole':
        made: nn.Module = Segmentor(build_model(cfg), labels=False)
    else:
        made = Features(build_model(Config({'default_scope': cfg.default_scope, 'model': backbone})))
    if name == 'DeiT-T, fused':
        fuse(made)
    return made.eval()


def fuse(model: nn.Module) -> None:
    """Let attention take PyTorch's fused kernel, by not asking for weights that nobody reads, in place."""
    found = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    assert found, 'the model has no attention of PyTorch'
    for module in found:
        module.forward = functools.partial(module.forward, need_weights=False)  # type: ignore[method-assign]
