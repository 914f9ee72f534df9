"""Files of models with a ViT-Adapter around a plain backbone of any family.

Publishers have the backbone's names beside the adapter's own; mmvim has ``plain.`` before the backbone's. Everything
about the backbone is its family's.
"""

import re
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError
from mmvim.checkpoints.families.base import Family, substitute
from mmvim.checkpoints.families.names import count, ratio, shape_of
from mmvim.checkpoints.layout import Layout, has_adapter
from mmvim.checkpoints.report import Report
from mmvim.models.backbones.base import Backbone
from mmvim.models.backbones.vit_adapter import ViTAdapter, equal_groups

PLAIN = 'plain.'
_RECORD = 'fuse_last'
_OWN = re.compile(rf'(spm|interactions|up|norm[1-4])\.|(level_embed|{_RECORD})$')
_ATTENTION = r'interactions\.\d+\.extractor\.attn\.'
_FUSION_OF_KIND = {'segmentor': 'groups', 'detector': 'last'}
_STEM = 'spm.stem.0.weight'
_OPTIONS = {'num_points': 4, 'fuse': None}


def plain_part(own: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return the backbone's tensors under its own names, without the adapter's.

    Args:
        own: Tensors of backbone and adapter by the publisher's or mmvim's names, or of a backbone alone.
    """
    if not has_adapter(own):
        return OrderedDict(own)
    return OrderedDict((name.removeprefix(PLAIN), tensor) for name, tensor in own.items() if not _OWN.match(name))


def fusion(own: dict[str, Tensor], kind: str) -> str | None:
    """Return how the outputs of a file's adapter are made, as it records or as its publisher has it, or None.

    Args:
        own: Tensors of backbone and adapter by name.
        kind: What the file is a checkpoint of.
    """
    if not has_adapter(own):
        return None
    return ViTAdapter.fusions[int(own[_RECORD])] if _RECORD in own else _FUSION_OF_KIND.get(kind)


def fusion_record(own: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return the record of :func:`fusion` as an adapter keeps it, by its name; {} if it is not known."""
    found = fusion(own, kind)
    return {} if found is None else {_RECORD: torch.tensor(ViTAdapter.fusions.index(found))}


def check_fusion(own: dict[str, Tensor], kind: str, module: ViTAdapter, source: str) -> None:
    """Check that a file's weights were trained with the outputs that the adapter makes.

    Raises:
        CheckpointError: If they were not.
    """
    theirs = fusion(own, kind)
    if theirs not in (None, module.fuse):
        raise CheckpointError(
            f'{source} is of a {kind} whose adapter has fuse={theirs!r}, and this one has fuse={module.fuse!r}: the '
            'weights fit, and would make other outputs',
            f'set fuse={theirs!r}, or strict=False to train on from them',
            misfit=True,
        )


class AdaptedFamily(Family):
    """A family's files whose backbone has a ViT-Adapter around it, and its classifiers for a backbone that has one.

    What a file does not reveal beside the options of the family; the published values are the defaults:

    - ``num_points``: points that a head of the adapter samples in each map.
    - ``fuse``: how the adapter makes its outputs. A file that mmvim wrote says it; of others, segmentors have 'groups'
      and detectors 'last'.

    Args:
        family: The family of the backbone.

    Examples:
        >>> import torch
        >>> from mmvim.checkpoints.families import FAMILIES, AdaptedFamily
        >>> from mmvim.models import ViTAdapter
        >>> with torch.device('meta'):
        ...     weights = ViTAdapter({'type': 'mmvim.PlainMamba', 'arch': 'l1'}).state_dict()
        >>> AdaptedFamily(FAMILIES['plainmamba']).arch_of(weights)
        'l1'
    """

    def __init__(self, family: Family) -> None:
        self.plain = family
        self.name = family.name  # type: ignore[misc]
        self.head, self.neck, self.aux_index = family.head, {}, family.aux_index  # type: ignore[misc]
        self.final_norm = PLAIN + family.final_norm  # type: ignore[misc]
        self.picture_kernels = (_STEM, *(PLAIN + name for name in family.picture_kernels))  # type: ignore[misc]
        self.records = (*(PLAIN + name for name in family.records), _RECORD)  # type: ignore[misc]
        self.file_options = dict(family.file_options)  # type: ignore[misc]
        self.config_options = {**family.config_options, **_OPTIONS}  # type: ignore[misc]
        self.numbers = {**family.numbers, 'num_points': (0,)}  # type: ignore[misc]
        self.choices = {**family.choices, 'fuse': (None, *ViTAdapter.fusions)}  # type: ignore[misc]
        self.views = family.views  # type: ignore[misc]
        self.backbone = family.backbone  # type: ignore[misc]  # whose named architectures a file may have

    @property
    def title(self) -> str:
        """Names of the adapter's and the backbone's class."""
        return f'{ViTAdapter.__name__} around {self.plain.title}'

    def rename(self, name: str) -> str:
        """See the base class."""
        name = substitute(name.removeprefix(PLAIN), self.plain.adapter_names)
        return name if _OWN.match(name) else PLAIN + self.plain.rename(name)

    def rename_part(self, name: str) -> str:
        """See the base class."""
        return self.plain.rename_part(name)

    def published_name(self, name: str) -> str:
        """See the base class."""
        if name.startswith(PLAIN):
            return self.plain.published_name(name.removeprefix(PLAIN))
        return substitute(name, self.plain.published_adapter_names)

    def unused(self, layout: Layout, names: dict[str, str]) -> dict[str, str]:
        """See the base class."""
        before = f'backbone.{PLAIN}'
        inner = {name.replace(before, 'backbone.', 1): given for name, given in names.items()}
        found = self.plain.unused(layout, inner)
        return {name.replace('backbone.', before, 1): reason for name, reason in found.items()}

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class."""
        return self.plain.settings(plain_part(own))

    def arch_settings(self, arch: str | dict) -> dict:
        """See the base class."""
        return self.plain.arch_settings(arch)

    def arch_of(self, own: dict[str, Tensor]) -> str | None:
        """See the base class."""
        return self.plain.arch_of(plain_part(own))

    def check_arch(self, own: dict[str, Tensor], module: Backbone, source: str) -> None:
        """See the base class."""
        self.plain.check_arch(plain_part(own), module.plain, source)  # type: ignore[arg-type]

    def recorded(self, config: dict) -> dict[str, Tensor]:
        """See the base class."""
        inner = config.get('backbone')
        found = self.plain.recorded(inner) if isinstance(inner, dict) else {}
        return {PLAIN + name: record for name, record in found.items()}

    def fit(self, own: dict[str, Tensor], module: Backbone, options: dict, report: Report) -> OrderedDict[str, Tensor]:
        """Make the weights for backbone and adapter; those of an adapter are new if the file has none."""
        assert isinstance(module, ViTAdapter)
        inner = self.plain.fit(plain_part(own), module.plain, options, report)
        for part in (report.resized, report.dropped, report.assumed, report.fresh):
            renamed = {PLAIN + name: why for name, why in part.items()}
            part.clear()
            part.update(renamed)
        weights = OrderedDict((PLAIN + name, tensor) for name, tensor in inner.items())
        if has_adapter(own):
            weights.update((name, tensor) for name, tensor in own.items() if _OWN.match(name))
            for name in [name for name in weights if module.not_built and name.startswith(module.not_built)]:
                del weights[name]
                report.dropped[name] = f'not needed for out_indices={module.out_indices}'
            recorded = fusion(own, '')
            if recorded != module.fuse:
                why = 'which the file does not say' if recorded is None else f"not the file's {recorded!r}"
                report.assumed[_RECORD] = f'fuse={module.fuse!r}, {why}'
        else:
            why = 'weight of the adapter, which a classifier does not have'
            report.fresh.update((name, why) for name in module.state_dict() if _OWN.match(name) and name != _RECORD)
        weights[_RECORD] = module.get_buffer(_RECORD).detach().clone()
        return weights

    def set_channels(self, config: dict, own: dict[str, Tensor]) -> None:
        """See the base class. The adapter takes the number from the backbone inside it."""
        self.plain.set_channels(config['backbone'], plain_part(own))

    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, None]:
        """See the base class."""
        inner = {name: value for name, value in options.items() if name not in _OPTIONS}
        plain, _ = self.plain.config(plain_part(own), 'backbone', arch, inner)
        for name in self.plain.backbone.bare:
            plain.pop(name, None)
        dims = shape_of(own, 'level_embed', 2)[1]
        groups = count(own, r'interactions\.(\d+)\.')
        depth = self.settings(own)['depth']
        config: dict[str, Any] = {
            'type': 'mmvim.ViTAdapter',
            'backbone': plain,
            'num_heads': shape_of(own, _ATTENTION + r'attention_weights\.bias', 1)[0] // options['num_points'],
            'num_points': options['num_points'],
            'value_ratio': ratio(shape_of(own, _ATTENTION + r'value_proj\.bias', 1)[0], dims),
            'ffn_ratio': ratio(shape_of(own, r'interactions\.\d+\.extractor\.ffn\.fc1\.bias', 1)[0], dims),
            'conv_dims': shape_of(own, r'spm\.stem\.0\.weight', 4)[0],
            'extra_extractors': count(own, r'interactions\.\d+\.extra_extractors\.(\d+)\.'),
            'fuse': options['fuse'] or fusion(own, kind) or 'groups',
        }
        try:
            config['groups'] = equal_groups(depth, max(groups, 1))
        except ValueError as error:
            raise CheckpointError(
                f'the file has {groups} interactions of an adapter with {depth} blocks, and does not say which',
                'give the config of its model',
            ) from error
        indices = tuple(index for index in range(4) if f'norm{index + 1}.weight' in own)
        config.update({} if indices == (0, 1, 2, 3) else {'out_indices': indices})
        return config, None
