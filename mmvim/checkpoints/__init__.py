"""Published checkpoints, read as they are: safely, completely, and with an account of every tensor.

    from mmvim import checkpoints
    found = checkpoints.read('vim_t_midclstok_76p1acc.pth')   # configs, weights in mmvim's names, report
    checkpoints.load_backbone(backbone, 'hf://nvidia/MambaVision-T-1K/model.safetensors')

In a config, give a backbone ``init_cfg=dict(type='Pretrained', checkpoint=FILE_OR_URL)``. ``tools/test.py`` takes whole
published segmentors and detectors, and ``tools/model_converters`` turns files into plain ones and back.
"""

from mmvim.checkpoints.classifier import build_classifier, preprocessing
from mmvim.checkpoints.convert import from_mmvim, to_mmvim
from mmvim.checkpoints.errors import CheckpointError
from mmvim.checkpoints.files.container import check_bytes, load_file
from mmvim.checkpoints.files.int8 import pack
from mmvim.checkpoints.files.recorded_config import recorded_config
from mmvim.checkpoints.files.safe_globals import allow_checkpoint_globals, checkpoint_globals
from mmvim.checkpoints.files.save import check_target, save_file
from mmvim.checkpoints.files.sources import PUBLISHED, can_fetch, fetch
from mmvim.checkpoints.load import load_backbone
from mmvim.checkpoints.mmengine import PretrainedBackbone, load_from_published
from mmvim.checkpoints.openmmlab import is_native, model_weights, read_for_model
from mmvim.checkpoints.read import Published, read
from mmvim.checkpoints.report import Report
from mmvim.checkpoints.view import CROP_MODES, View, read_picture

# Stock tools build a model, for which this is imported, before they load a checkpoint: PyTorch's reader since 2.6, and
# so the original MMEngine's, would refuse those that trainings write, and the maintained one would unpickle everything.
allow_checkpoint_globals()

__all__ = [
    'CROP_MODES',
    'PUBLISHED',
    'CheckpointError',
    'PretrainedBackbone',
    'Published',
    'Report',
    'View',
    'allow_checkpoint_globals',
    'build_classifier',
    'can_fetch',
    'check_bytes',
    'check_target',
    'checkpoint_globals',
    'fetch',
    'from_mmvim',
    'is_native',
    'load_backbone',
    'load_file',
    'load_from_published',
    'model_weights',
    'pack',
    'preprocessing',
    'read',
    'read_for_model',
    'read_picture',
    'recorded_config',
    'save_file',
    'to_mmvim',
]
