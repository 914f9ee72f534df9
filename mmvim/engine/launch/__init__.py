"""The first steps of the command-line tools: read the command, check what it needs, report what is wrong.

Every check runs before a runner exists and before anything is written, and raises :class:`UserError`, which a tool
prints as one line.
"""

from mmvim.checkpoints import allow_checkpoint_globals, checkpoint_globals
from mmvim.engine.launch.arguments import (
    ConversionParser,
    OneLineParser,
    OptionsAction,
    add_run_arguments,
    config_parser,
    publish_local_rank,
)
from mmvim.engine.launch.config import load_config, set_work_dir
from mmvim.engine.launch.data import check_data
from mmvim.engine.launch.device import check_launcher, has_accelerator, prepare_cpu_distribution, set_precision
from mmvim.engine.launch.errors import ENVIRONMENT, USAGE, UserError, run_tool, warn
from mmvim.engine.launch.evaluation import set_output, set_tta, set_visualization
from mmvim.engine.launch.memory import keep_freed_memory
from mmvim.engine.launch.model import build_model
from mmvim.engine.launch.ops import check_compiled_ops
from mmvim.engine.launch.resume import check_start, set_resume
from mmvim.engine.launch.versions import warn_if_untested
from mmvim.engine.launch.weights import (
    check_fit,
    check_pretrained,
    checkpoint_errors,
    is_remote,
    local_checkpoint,
    read_checkpoint,
    runner_checkpoint,
    state_dict_of,
)

__all__ = [
    'ENVIRONMENT',
    'USAGE',
    'ConversionParser',
    'OneLineParser',
    'OptionsAction',
    'UserError',
    'add_run_arguments',
    'allow_checkpoint_globals',
    'build_model',
    'check_compiled_ops',
    'check_data',
    'check_fit',
    'check_launcher',
    'check_pretrained',
    'check_start',
    'checkpoint_errors',
    'checkpoint_globals',
    'config_parser',
    'has_accelerator',
    'is_remote',
    'keep_freed_memory',
    'load_config',
    'local_checkpoint',
    'prepare_cpu_distribution',
    'publish_local_rank',
    'read_checkpoint',
    'run_tool',
    'runner_checkpoint',
    'set_output',
    'set_precision',
    'set_resume',
    'set_tta',
    'set_visualization',
    'set_work_dir',
    'state_dict_of',
    'warn',
    'warn_if_untested',
]
