"""mmvim's backbones for transformers: importing this module registers them with its ``AutoBackbone``.

    from mmvim.hub.auto_backbone import MmvimBackboneConfig
    from transformers import UperNetConfig, UperNetForSemanticSegmentation
    backbone = MmvimBackboneConfig(dict(type='mmvim.VMamba', arch='tiny', out_indices=(0, 1, 2, 3)))
    model = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, auxiliary_in_channels=384))

Needs ``pip install "mmvim[transformers]"``; see https://huggingface.co/docs/transformers/main_classes/backbones.
"""

from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from mmvim.hub.description import without_files
from mmvim.hub.trusted import check_config


class MmvimBackboneConfig(BackboneConfigMixin, PreTrainedConfig):
    """The config of a backbone.

    Args:
        backbone: As a config of OpenMMLab has it, with ``type`` and ``out_indices``; each output is a stage, 'stage1'
            and so on. Defaults to None, a tiny Vim with four outputs.
        out_features: Names of the stages to return. Defaults to None, those of ``out_indices``.
        out_indices: Numbers of the stages to return, from 0. Defaults to None, all.
        kwargs: What every config of transformers takes.

    Raises:
        ValueError: If ``backbone`` lacks ``type`` or ``out_indices``.
    """

    model_type = 'mmvim'

    def __init__(
        self,
        backbone: dict | None = None,
        out_features: list[str] | None = None,
        out_indices: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.backbone = dict(backbone or {'type': 'mmvim.Vim', 'arch': 'tiny', 'out_indices': (5, 11, 17, 23)})
        for key in ('type', 'out_indices'):
            if not self.backbone.get(key):
                raise ValueError(f'backbone={backbone} lacks {key!r}: name a backbone and its outputs')
        self.backbone['out_indices'] = list(self.backbone['out_indices'])  # as JSON gives it back
        self.stage_names = [f'stage{number}' for number in range(1, len(self.backbone['out_indices']) + 1)]
        if out_features is None and out_indices is None:
            out_features = list(self.stage_names)
        self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs: Any) -> Any:
        """Read what a file holds, which may name registered modules and no files; else a CheckpointError."""
        backbone = without_files(config_dict.get('backbone'))
        check_config(backbone, 'the config of the backbone', 'mmvim')
        return super().from_dict({**config_dict, 'backbone': backbone}, **kwargs)


class MmvimBackbone(BackboneMixin, PreTrainedModel):
    """A backbone of mmvim in a model of transformers; only the outputs that are asked for are built and computed.

    Args:
        config: The config.
    """

    config_class = MmvimBackboneConfig
    main_input_name = 'pixel_values'
    has_attentions = False

    def __init__(self, config: MmvimBackboneConfig) -> None:
        super().__init__(config)
        wanted = config.backbone['out_indices']
        self.backbone = MODELS.build({**config.backbone, 'out_indices': [wanted[i] for i in config.out_indices]})
        weight = next(self.backbone.parameters())
        if weight.device.type != 'meta':  # there the weights of a file come next
            self.backbone.init_weights()
        with torch.no_grad():  # the outputs tell their channels
            maps = self.backbone.eval()(weight.new_zeros(1, config.backbone.get('in_channels', 3), 64, 64))
        self.backbone.train()
        known = dict(zip(config.out_indices, (x.shape[1] for x in maps), strict=True))
        self.num_features = [known.get(index) for index in range(len(self.stage_names))]
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leave weights as mmvim has initialised them."""

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BackboneOutput:
        """Return the feature maps, (B, C, h, w) each, of pictures (B, C, H, W)."""
        return BackboneOutput(feature_maps=tuple(self.backbone(pixel_values)))


AutoConfig.register(MmvimBackboneConfig.model_type, MmvimBackboneConfig, exist_ok=True)
AutoBackbone.register(MmvimBackboneConfig, MmvimBackbone, exist_ok=True)
