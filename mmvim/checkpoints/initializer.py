"""``init_cfg=dict(type='Pretrained', checkpoint=...)`` of mmvim's backbones."""

from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from torch import nn

from mmvim.checkpoints.loading import load_backbone
from mmvim.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module(name='Pretrained')
class PretrainedBackbone:
    """Fill a backbone from a published file, completely and correctly, or raise.

    On mmvim's backbones ``type='Pretrained'`` means this (see :class:`mmvim.models.backbones.base.Backbone`). The
    report is logged.

    Args:
        checkpoint (str): A path, a folder with one checkpoint, ``http(s)://…`` or ``hf://owner/repo/file``: the
            publisher's file as it is, or one that mmvim, MMSegmentation or MMDetection wrote.
        prefix (str, optional): What stands before the backbone's names. Defaults to None: found.
        map_location (str): Accepted because MMEngine's initializer has it; the file is mapped into memory and copied
            to where the backbone is. Defaults to 'cpu'.
        key (str, optional): Key of the container, for example 'model_ema'. Defaults to None: 'state_dict', else
            'model', else bare weights.
        strict (bool): Raise also for tensors that have no place. Defaults to True.
        cls_token (str, optional): Vim: where the file's class token stands. Defaults to None, 'middle'.
        compat (str, optional): Vim: 'upstream' for the shifted positions of the published dense code. Defaults to None.
        grid (tuple[int, int], optional): Vim: rows and columns of the file's positions. Defaults to None, a square.
        stride (int, optional): Vim: stride of the file's patches. Defaults to None, the published one.
        patch_change (str, optional): Vim: 'refuse' or 'resample' patches of another size or stride. Defaults to None,
            'refuse'.

    Raises:
        CheckpointError: If the file cannot be read safely or does not fit; the backbone is then as it was.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        map_location: str = 'cpu',
        key: str | None = None,
        strict: bool = True,
        cls_token: str | None = None,
        compat: str | None = None,
        grid: tuple[int, int] | None = None,
        stride: int | None = None,
        patch_change: str | None = None,
    ) -> None:
        del map_location
        self.checkpoint, self.prefix, self.key, self.strict = checkpoint, prefix, key, strict
        options = {
            'cls_token': cls_token,
            'compat': compat,
            'grid': grid,
            'stride': stride,
            'patch_change': patch_change,
        }
        self.options = {name: value for name, value in options.items() if value is not None}

    def __call__(self, module: nn.Module) -> None:
        """Fill `module`."""
        prefix = self.prefix and f'{self.prefix.rstrip(".")}.'  # MMEngine's takes it with and without the dot
        report = load_backbone(module, self.checkpoint, key=self.key, prefix=prefix, strict=self.strict, **self.options)
        print_log(report.text(), logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'Pretrained: loaded from {self.checkpoint}')
