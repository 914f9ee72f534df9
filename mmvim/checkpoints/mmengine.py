"""What MMEngine calls: the initializer of mmvim's backbones, and locations for its own loaders.

``init_cfg=dict(type='Pretrained', checkpoint=...)`` of a backbone comes here. ``hf://owner/repo/file`` and
``published://FILE`` work wherever MMEngine takes a checkpoint (``load_from``, ``load_checkpoint``) once
:mod:`mmvim.checkpoints` is imported: the file is read safely and given to the model under the model's own names.
"""

from typing import Any

from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from mmengine.runner import CheckpointLoader
from torch import nn

from mmvim.checkpoints.files.sources import PUBLISHED
from mmvim.checkpoints.load import load_backbone
from mmvim.checkpoints.openmmlab import read_for_model
from mmvim.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module(name='Pretrained')
class PretrainedBackbone:
    """An initializer that fills a backbone from a published file, completely and correctly, or raises.

    On mmvim's backbones ``type='Pretrained'`` means this one (see :class:`mmvim.models.backbones.base.Backbone`). It
    logs its report.

    Args:
        checkpoint: A path, a folder with one checkpoint, ``http(s)://…`` or ``hf://owner/repo/file``: the publisher's
            file as it is, or one that mmvim, MMSegmentation or MMDetection wrote.
        prefix: What precedes the backbone's names in the file. Defaults to None, any chain of the usual wrappers.
        map_location: Accepted because MMEngine's initializer has it; the file is mapped into memory and copied to where
            the backbone is. Defaults to 'cpu'.
        key: Key of the container, for example 'model_ema'. Defaults to None: 'state_dict', else 'model', else bare
            weights.
        strict: Also raise for tensors that have no place. Defaults to True.
        **options: What the file does not say of itself: ``file_options`` of the backbone's family, such as
            :class:`mmvim.checkpoints.families.VimFamily`. None stands for the default. An unknown one is an error that
            names the known ones.

    Raises:
        CheckpointError: If the file cannot be read safely or does not fit; the backbone is left as it was.

    Examples:
        >>> import contextlib
        >>> import sys
        >>> import tempfile
        >>> import torch
        >>> from mmvim.models import Vim
        >>> arch = {'embed_dims': 16, 'depth': 2}
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file, contextlib.redirect_stdout(sys.stderr):
        ...     published = Vim(arch)
        ...     torch.save({'model': published.state_dict()}, file.name)
        ...     backbone = Vim(arch, init_cfg={'type': 'Pretrained', 'checkpoint': file.name})
        ...     backbone.init_weights()
        >>> torch.equal(backbone.pos_embed, published.pos_embed)
        True
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        map_location: str = 'cpu',
        key: str | None = None,
        strict: bool = True,
        **options: Any,
    ) -> None:
        del map_location
        self.checkpoint, self.prefix, self.key, self.strict = checkpoint, prefix, key, strict
        self.options = {name: value for name, value in options.items() if value is not None}

    def __call__(self, module: nn.Module) -> None:
        """Fill ``module``."""
        prefix = self.prefix and f'{self.prefix.rstrip(".")}.'  # MMEngine takes it with and without the dot
        report = load_backbone(module, self.checkpoint, key=self.key, prefix=prefix, strict=self.strict, **self.options)
        print_log(report.text(), logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'Pretrained: loaded from {self.checkpoint}')


@CheckpointLoader.register_scheme(prefixes=('hf://', PUBLISHED), force=True)
def load_from_published(filename: str, map_location: str | None = None, logger: str = 'current') -> dict:
    """Read a published file for MMEngine.

    Args:
        filename: ``hf://…`` or ``published://FILE``.
        map_location: Accepted because MMEngine passes it; weights are mapped into memory. Defaults to None.
        logger: Where the report goes, as MMEngine's ``print_log`` takes it. Defaults to 'current'.

    Returns:
        A checkpoint with ``state_dict``.

    Raises:
        CheckpointError: If the file cannot be read.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim import checkpoints
        >>> from mmvim.models import Vim
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'model': Vim({'embed_dims': 16, 'depth': 2}).state_dict()}, file.name)
        ...     checkpoint = checkpoints.load_from_published(f'published://{file.name}', logger='silent')
        >>> 'backbone.pos_embed' in checkpoint['state_dict']
        True
    """
    del map_location
    checkpoint, report = read_for_model(filename.removeprefix(PUBLISHED))
    print_log(report.text(), logger=logger)
    return checkpoint
