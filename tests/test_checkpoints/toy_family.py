"""A family with everything that a publisher can do differently: names, head, crop, an option of its own."""

from typing import ClassVar

from torch import nn

from mmvim.checkpoints import View
from mmvim.checkpoints.families import Family
from mmvim.models.backbones.base import Backbone
from mmvim.models.backbones.common import resolve_arch
from mmvim.registry import MODELS

# What the publisher's older files call the tensors, by today's beginnings and pieces of names.
OLDER = {'patch_embed.0.': 'patch_embed.proj.', '.norm.': '.ln_1.', '.op.': '.self_attention.'}


def define_toy() -> tuple[type, type]:
    """Define and register a backbone and its family; whoever calls it unregisters both."""

    @MODELS.register_module()
    class Toy(Backbone):
        """Blocks of norm and linear layer on patches of 4 pixels."""

        arch_zoo: ClassVar[dict] = {'tiny': {'width': 4}, 'small': {'width': 6}}

        def __init__(self, arch='tiny', out_norm=True, final_norm=False, init_cfg=None):
            super().__init__(init_cfg)
            width = resolve_arch(arch, self.arch_zoo, {})['width']
            self.patch_embed = nn.Sequential(nn.Conv2d(3, width, 4, 4))
            self.blocks = nn.ModuleList()
            for _ in range(2):
                block = nn.Module()
                block.norm, block.op = nn.LayerNorm(width), nn.Linear(width, width)
                self.blocks.append(block)
            if out_norm:
                self.outnorm0 = nn.LayerNorm(width)
            if final_norm:
                self.norm = nn.LayerNorm(width)

        def forward(self, image):
            tokens = self.patch_embed(image).flatten(2).mT  # (B, L, C)
            for block in self.blocks:
                tokens = tokens + block.op(block.norm(tokens))
            return (self.norm(tokens).mean(1),)  # (B, C)

    class ToyFamily(Family):
        """Its classifiers have norm and head in ``classifier``."""

        name = 'toy'
        backbone = Toy
        stem = ('patch_embed.0.weight', 'blocks.0.op.weight')
        renames = (
            (r'^patch_embed\.proj\.', 'patch_embed.0.'),
            (r'\.ln_1\.', '.norm.'),
            (r'\.self_attention\.', '.op.'),
            (r'^classifier\.norm\.', 'norm.'),
        )
        published_names = ((r'^norm\.', 'classifier.norm.'),)
        head = ('classifier.head', 'head')
        final_norm = 'norm.weight'
        never_used: ClassVar[dict] = {'gate.': 'gate of an experiment'}
        views: ClassVar[dict] = {None: View(32, 0.9, 'bilinear', 'squash'), 'small': View(48, 1.0, 'bicubic')}
        aux_index = 3
        file_options: ClassVar[dict] = {'channels': 'rgb'}
        choices: ClassVar[dict] = {'channels': ('rgb', 'bgr')}

        def settings(self, own):
            return {'width': own['blocks.0.op.weight'].shape[0]}

        def arch_settings(self, arch):
            return resolve_arch(arch, self.backbone.arch_zoo, {})

        def config(self, own, kind, arch, options):
            classifier = kind == 'classifier'
            return {'type': 'mmvim.Toy', 'arch': arch, 'out_norm': not classifier, 'final_norm': classifier}, None

        def fit(self, own, module, options, report):
            weights = super().fit(own, module, options, report)
            if options['channels'] == 'bgr':
                weights['patch_embed.0.weight'] = weights['patch_embed.0.weight'].flip(1)
                report.resized['patch_embed.0.weight'] = 'channels in the order of RGB'
            return weights

    return Toy, ToyFamily
