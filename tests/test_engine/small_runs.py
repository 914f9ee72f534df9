"""A small classifier and runs of it, for the tests of hooks."""

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from mmvim.checkpoints import allow_checkpoint_globals


class Sample(BaseDataElement):
    """A sample that names its picture, as those of the toolboxes do."""


class Numbers(torch.utils.data.Dataset):
    """Sixteen samples of four numbers; those of ``bad`` are NaN."""

    def __init__(self, bad=()):
        self.inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
        self.bad = bad

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        value = torch.full((4,), float('nan')) if index in self.bad else self.inputs[index]
        return {'inputs': value, 'data_samples': Sample(metainfo={'img_path': f'{index}.jpg', 'label': index % 3})}


def stack(samples):
    return {
        'inputs': torch.stack([sample['inputs'] for sample in samples]),
        'data_samples': [sample['data_samples'] for sample in samples],
    }


class Classifier(BaseModel):
    """A layer, a batch norm and another layer; two named losses."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.last(self.norm(self.first(inputs)))
        if mode == 'loss':
            target = torch.tensor([sample.label for sample in data_samples])
            return {'loss_ce': nn.functional.cross_entropy(logits, target), 'loss_l2': 1e-3 * self.last.weight.norm()}
        return logits


def runner(work_dir, hooks=(), iterations=8, batch=2, bad=(), checkpoint=None, model=None, name=None, **settings):
    """A runner whose batches are 0 and 1, 2 and 3 and so on; ``checkpoint``: arguments of the hook that saves."""
    allow_checkpoint_globals()
    work_dir = str(work_dir)
    loader = {
        'dataset': Numbers(bad),
        'sampler': {'type': 'InfiniteSampler', 'shuffle': False},
        'batch_size': batch,
        'num_workers': 0,
        'collate_fn': stack,
    }
    wrapper = settings.pop('optim_wrapper', {})
    return Runner(
        model=Classifier() if model is None else model,
        work_dir=work_dir,
        train_dataloader=loader,
        train_cfg={'type': 'IterBasedTrainLoop', 'max_iters': iterations, 'val_interval': 2},
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 0.01}, **wrapper},
        param_scheduler={'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'end': 6},
        default_hooks={'checkpoint': checkpoint, 'logger': {'type': 'LoggerHook', 'interval': 1}},
        custom_hooks=list(hooks),
        randomness={'seed': 3},
        experiment_name=name or work_dir.strip('/').replace('/', '_'),  # MMEngine shares logs of one name
        log_level='WARNING',
        **settings,
    )


def weights(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}
