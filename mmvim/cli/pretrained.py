"""What a run reads from the checkpoints that ``init_cfg`` names, checked before the runner exists."""

import os
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.model.weight_init import initialize
from torch import nn

from mmvim import checkpoints
from mmvim.cli.errors import ENVIRONMENT, UserError
from mmvim.cli.weights import checkpoint_errors, is_remote
from mmvim.models.backbones.base import Backbone

# Collections of other libraries, none of which holds a backbone of mmvim.
_OTHERS = ('torchvision://', 'open-mmlab://', 'openmmlab://', 'mmcls://', 'jhu://')


def check_pretrained(cfg: Config, model: nn.Module) -> None:
    """Check the files that ``init_cfg`` of the model's parts will read: they exist, run no code, and fit a backbone.

    Args:
        cfg: The config.
        model: The model, as :func:`build_model` returns it; backbones of mmvim receive their weights.

    Raises:
        UserError: If a file does not exist, cannot be read or does not fit.

    Examples:
        >>> from mmengine.config import Config
        >>> from torch import nn
        >>> from mmvim.cli import UserError, check_pretrained
        >>> init_cfg = dict(type='Pretrained', checkpoint='gone.pth')
        >>> try:
        ...     check_pretrained(Config(dict(model=dict(type='Vim', init_cfg=init_cfg))), nn.Identity())
        ... except UserError as error:
        ...     print(str(error).split('; ')[0])
        model.init_cfg.checkpoint gone.pth does not exist
    """
    for path, file in _pretrained(cfg.model, ('model',)):
        if isinstance(file, str) and not is_remote(file) and not os.path.exists(os.path.expanduser(file)):
            option = '.'.join(path)
            raise UserError(
                f'{option} {file} does not exist', f'download it, or pass --cfg-options {option}=PATH', ENVIRONMENT
            )
    own: list[str] = []
    for module in model.modules():
        if isinstance(module, Backbone):
            given = module.pretrained()
            files = [str(entry.get('checkpoint')) for entry in given]
            own += files
            other = next((file for file in files if file.startswith(_OTHERS)), None)
            if other is not None:
                raise UserError(
                    f"init_cfg of the backbone, {type(module).__name__}, names {other}: another backbone's weights",
                    "set its init_cfg=None, or dict(type='Pretrained', checkpoint=FILE) with a file of its own",
                )
            with checkpoint_errors():
                initialize(module, given)
    for _, file in _pretrained(cfg.model, ('model',)):
        # Of other parts MMEngine reads the file, and where that fails the safe way it may unpickle everything.
        if isinstance(file, str) and file not in own and os.path.isfile(os.path.expanduser(file)):
            with checkpoint_errors():
                checkpoints.load_file(os.path.expanduser(file))


def _pretrained(node: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    if isinstance(node, dict):
        if node.get('type') in ('Pretrained', 'mmvim.Pretrained') and 'checkpoint' in node:
            yield (*path, 'checkpoint'), node['checkpoint']
        if node.get('pretrained') is not None:
            yield (*path, 'pretrained'), node['pretrained']
        for key, value in node.items():
            yield from _pretrained(value, (*path, str(key)))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _pretrained(value, (*path, str(index)))
