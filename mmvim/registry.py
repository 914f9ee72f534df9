"""mmvim's registries: children of MMEngine's, found by the prefix ``mmvim.`` from any default scope.

``type='mmvim.Vim'`` makes MMEngine import this module and then the modules in ``locations``; no ``custom_imports`` is
needed. Every registry that a config can reach has a child here, because a config inherited through ``mmvim::`` gets
``_scope_='mmvim'`` on its dicts and MMEngine warns about each registry that lacks the scope.

Heavy modules belong in ``locations``: MMEngine shows an ImportError raised there, and hides one raised here.

Examples:
    >>> from mmvim.registry import MODELS
    >>> MODELS.build(dict(type='VimMixer', embed_dims=8)).__class__.__name__
    'VimMixer'
"""

from mmengine import registry as root
from mmengine.registry import Registry

# Checkpoints, too: what a model is built for often loads one next, and they tell PyTorch what one may hold.
MODELS = Registry('model', parent=root.MODELS, locations=['mmvim.models', 'mmvim.checkpoints'])
MODEL_WRAPPERS = Registry('model wrapper', parent=root.MODEL_WRAPPERS, locations=['mmvim.models'])
WEIGHT_INITIALIZERS = Registry('weight initializer', parent=root.WEIGHT_INITIALIZERS, locations=['mmvim.checkpoints'])
FUNCTIONS = Registry('function', parent=root.FUNCTIONS, locations=['mmvim.models'])

DATASETS = Registry('dataset', parent=root.DATASETS, locations=['mmvim.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=root.DATA_SAMPLERS, locations=['mmvim.datasets'])
TRANSFORMS = Registry(
    'transform', parent=root.TRANSFORMS, locations=['mmvim.datasets.transforms', 'mmvim.datasets.load_bands']
)

HOOKS = Registry('hook', parent=root.HOOKS, locations=['mmvim.engine'])
LOOPS = Registry('loop', parent=root.LOOPS, locations=['mmvim.engine'])
RUNNERS = Registry('runner', parent=root.RUNNERS, locations=['mmvim.engine'])
RUNNER_CONSTRUCTORS = Registry('runner constructor', parent=root.RUNNER_CONSTRUCTORS, locations=['mmvim.engine'])
STRATEGIES = Registry('strategy', parent=root.STRATEGIES, locations=['mmvim.engine'])
OPTIMIZERS = Registry('optimizer', parent=root.OPTIMIZERS, locations=['mmvim.engine'])
OPTIM_WRAPPERS = Registry('optim wrapper', parent=root.OPTIM_WRAPPERS, locations=['mmvim.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optim wrapper constructor', parent=root.OPTIM_WRAPPER_CONSTRUCTORS, locations=['mmvim.engine']
)
PARAM_SCHEDULERS = Registry('parameter scheduler', parent=root.PARAM_SCHEDULERS, locations=['mmvim.engine'])
LOG_PROCESSORS = Registry('log processor', parent=root.LOG_PROCESSORS, locations=['mmvim.engine'])
VISUALIZERS = Registry('visualizer', parent=root.VISUALIZERS, locations=['mmvim.engine'])
VISBACKENDS = Registry('vis_backend', parent=root.VISBACKENDS, locations=['mmvim.engine'])

EVALUATORS = Registry('evaluator', parent=root.EVALUATOR, locations=['mmvim.engine'])
METRICS = Registry('metric', parent=root.METRICS, locations=['mmvim.engine'])
INFERENCERS = Registry('inferencer', parent=root.INFERENCERS, locations=['mmvim.engine'])
TASK_UTILS = Registry('task util', parent=root.TASK_UTILS, locations=['mmvim.models'])
