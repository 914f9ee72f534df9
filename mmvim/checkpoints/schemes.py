"""Locations that MMEngine's own loaders understand once :mod:`mmvim.checkpoints` is imported.

``hf://owner/repo/file`` and ``published://FILE`` work wherever MMEngine takes a checkpoint (``load_from``,
``load_checkpoint``): the file is read safely and given to the model under the model's own names.
"""

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from mmvim.checkpoints.models import read_for_model
from mmvim.checkpoints.sources import PUBLISHED


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
