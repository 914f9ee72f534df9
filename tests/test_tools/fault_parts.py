"""What a config brings by ``custom_imports`` to make a run fail at a known moment."""

import os
import signal

from mmengine.hooks import Hook
from mmengine.registry import HOOKS, TRANSFORMS
from torch.utils.data import get_worker_info


@TRANSFORMS.register_module()
class DyingWorker:
    """Kill the data worker that reads the picture of a name."""

    def __init__(self, name):
        self.name = name

    def __call__(self, results):
        if get_worker_info() is not None and self.name in results['img_path']:
            os.kill(os.getpid(), signal.SIGKILL)
        return results


@HOOKS.register_module()
class SignalAt(Hook):
    """Send this process, if it has the rank, a signal before an iteration."""

    def __init__(self, iteration, kind='SIGINT', rank=0):
        self.iteration, self.kind, self.rank = iteration, kind, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration and runner.rank == self.rank:
            os.kill(os.getpid(), getattr(signal, self.kind))


@HOOKS.register_module()
class NaNAt(Hook):
    """Make the pictures of an iteration NaN, in the process of a rank."""

    priority = 'VERY_HIGH'

    def __init__(self, iteration, rank=0):
        self.iteration, self.rank = iteration, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration and runner.rank == self.rank:
            data_batch['inputs'] = [picture.float() * float('nan') for picture in data_batch['inputs']]
