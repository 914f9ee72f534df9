"""Locations that MMEngine's own loaders understand once :mod:`mmvim.checkpoints` is imported.

``hf://owner/repo/file`` and ``published://FILE`` stand wherever MMEngine takes a checkpoint (``load_from``,
``load_checkpoint``): the file is read safely and given to the model in its names.
"""

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from mmvim.checkpoints.models import read_for_model
from mmvim.checkpoints.sources import PUBLISHED


@CheckpointLoader.register_scheme(prefixes=('hf://', PUBLISHED), force=True)
def load_from_published(filename: str, map_location: str | None = None, logger: str = 'current') -> dict:
    """Read a published file for MMEngine.

    Args:
        filename (str): ``hf://…`` or ``published://FILE``.
        map_location (str, optional): Accepted because MMEngine passes it; weights are mapped into memory. Defaults to
            None.
        logger (str): Where the report goes. Defaults to 'current'.

    Returns:
        dict: A checkpoint with `state_dict`.

    Raises:
        CheckpointError: If the file cannot be read.
    """
    del map_location
    checkpoint, report = read_for_model(filename.removeprefix(PUBLISHED))
    print_log(report.text(), logger=logger)
    return checkpoint
