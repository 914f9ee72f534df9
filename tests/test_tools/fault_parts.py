"""What a config brings by ``custom_imports`` to make a run fail at a known moment."""

import os
import signal

import torch
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
            os.makedirs(runner.work_dir, exist_ok=True)
            with open(f'{runner.work_dir}/signalled', 'w'):  # whose time is the signal's
                pass
            os.kill(os.getpid(), getattr(signal, self.kind))


@HOOKS.register_module()
class KilledWhileSaving(Hook):
    """Kill this process when a checkpoint of an iteration is about to be written."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_save_checkpoint(self, runner, checkpoint):
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class NaNAt(Hook):
    """Make the pictures of an iteration NaN, in the process of a rank."""

    priority = 'VERY_HIGH'

    def __init__(self, iteration, rank=0):
        self.iteration, self.rank = iteration, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration and runner.rank == self.rank:
            data_batch['inputs'] = [picture.float() * float('nan') for picture in data_batch['inputs']]


@HOOKS.register_module()
class Record(Hook):
    """Write the loss and the pictures of each iteration, a file a process, and the weights at the end."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.lines = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        names = [os.path.basename(sample.img_path) for sample in data_batch['data_samples']]
        self.lines.append({'iter': runner.iter + 1, 'loss': float(outputs['loss']), 'pictures': names})

    def after_train(self, runner):
        os.makedirs(runner.work_dir, exist_ok=True)
        state = runner.model.state_dict()
        weights = {name: value.clone() for name, value in state.items() if type(value) is torch.Tensor}  # no shards
        torch.save({'iterations': self.lines, 'weights': weights}, f'{runner.work_dir}/record_{runner.rank}.pt')
