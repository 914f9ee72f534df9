"""What the files of VMamba and its relatives share: names, the last layers of a classifier, and the config."""

from typing import Any, ClassVar

from torch import Tensor

from mmvim.checkpoints.families.base import Family
from mmvim.checkpoints.families.names import count, ratio, shape_of
from mmvim.checkpoints.view import View
from mmvim.models.backbones.common import resolve_arch

_FIRST = r'layers\.0\.blocks\.\d+\.'


class VSSPyramidFamily(Family):
    """Classifiers of ImageNet-1K, and the EncoderDecoder and MaskRCNN files of mmseg and mmdet.

    A file reveals everything but ``out_indices``. A subclass adds the settings of its own blocks.

    Attributes:
        not_in_file: Settings of an architecture of which the weights tell nothing. Defaults to ``('drop_path_rate',)``.

    Examples:
        >>> from mmvim.checkpoints.families import FAMILIES
        >>> isinstance(FAMILIES['msvmamba'], VSSPyramidFamily)
        True
    """

    renames: ClassVar[tuple[tuple[str, str], ...]] = ((r'^classifier\.norm\.', 'norm.'),)
    published_names: ClassVar[tuple[tuple[str, str], ...]] = ((r'^norm\.', 'classifier.norm.'),)
    head: ClassVar[tuple[str, ...]] = ('classifier.head', 'head')
    final_norm: ClassVar[str] = 'norm.weight'
    # VMamba's, in classification/data/build.py and config.py of its publisher's code; not verified of its relatives.
    views: ClassVar[dict[str | None, View]] = {None: View(224, 0.875, 'bicubic')}
    config_options: ClassVar[dict] = {'out_indices': None}
    not_in_file: ClassVar[tuple[str, ...]] = ('drop_path_rate',)

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class."""
        (dim,) = shape_of(own, _FIRST + r'norm\.weight', 1)
        (inner,) = shape_of(own, _FIRST + r'op\.out_norm\.weight', 1)
        return {
            'depths': tuple(self.depth(own, stage) for stage in range(4)),
            'dim': dim,
            'd_state': shape_of(own, r'layers\.\d+\.blocks\.\d+\.op\.A_logs', 2)[1],
            'ssm_ratio': ratio(inner, dim),
        }

    def depth(self, own: dict[str, Tensor], stage: int) -> int:
        """Return how many blocks of a stage are in a file.

        Args:
            own: The file's tensors by the backbone's names.
            stage: Number of the stage.
        """
        return count(own, rf'layers\.{stage}\.blocks\.(\d+)\.')

    def arch_settings(self, arch: str | dict) -> dict:
        """See the base class."""
        full = resolve_arch(arch, self.backbone.arch_zoo, self.backbone.arch_defaults)
        full['depths'] = tuple(full['depths'])
        return {name: value for name, value in full.items() if name not in self.not_in_file}

    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, None]:
        """See the base class."""
        config: dict[str, Any] = {'type': f'mmvim.{self.title}', 'arch': arch, 'out_indices': (0, 1, 2, 3)}
        if kind == 'classifier':
            config.update(out_indices=3, out_norm=False, final_norm=True)
        if options['out_indices'] is not None:
            config['out_indices'] = options['out_indices']
        return config, None
