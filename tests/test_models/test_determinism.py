"""Trainings with ``randomness=dict(seed=0, deterministic=True)``, data workers included, have equal bits."""

import os
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import FAMILY_CASES
from mmengine.model import BaseModel
from mmengine.runner import Runner
from short_training import CLASSES, Classifier, pictures
from torch import Tensor
from torch.utils.data import Dataset

QUICK = ('vim',)
FAMILIES = pytest.mark.parametrize(
    'family', [pytest.param(name, marks=[pytest.mark.full] * (name not in QUICK)) for name in FAMILY_CASES]
)


class Trainable(BaseModel):
    """A classifier as MMEngine trains it, with stochastic depth."""

    def __init__(self, family: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.classifier = Classifier(family, drop_path_rate=0.3)

    def forward(self, inputs: Tensor, labels: Tensor, mode: str) -> dict[str, Tensor]:
        """Compute the loss."""
        assert mode == 'loss'
        return {'loss': F.cross_entropy(self.classifier(inputs), labels)}


class Augmented(Dataset):
    """Pictures that every source of random numbers changes, in the workers."""

    def __init__(self, family: str) -> None:
        self.pictures = pictures(family)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict:
        x = self.pictures[index] * float(np.random.uniform(0.5, 2)) + torch.randn(())
        return {'inputs': x.flip(-1) if random.random() < 0.5 else x, 'labels': index % CLASSES}


@pytest.fixture
def as_before():
    """Undo what ``deterministic=True`` sets for the whole process."""
    kept = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, os.environ.get('CUBLAS_WORKSPACE_CONFIG')
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = kept[:2]
    os.environ.pop('CUBLAS_WORKSPACE_CONFIG', None)
    if kept[2] is not None:
        os.environ['CUBLAS_WORKSPACE_CONFIG'] = kept[2]


def trained(family: str, folder, seed: int = 0) -> dict[str, Tensor]:
    """The weights after 20 steps."""
    model = Trainable(family)
    loader = {
        'dataset': Augmented(family),
        'batch_size': 4,
        'num_workers': 2,
        'timeout': 120,  # seconds; a process made of one with threads can wait for ever
        'sampler': {'type': 'InfiniteSampler', 'shuffle': True},
        'collate_fn': {'type': 'default_collate'},
    }
    runner = Runner(
        model,
        str(folder),
        train_dataloader=loader,
        train_cfg={'by_epoch': False, 'max_iters': 20},
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 1e-3}},
        default_hooks={'checkpoint': None, 'logger': None},
        randomness={'seed': seed, 'deterministic': True},
        log_level='ERROR',
        experiment_name=folder.name,
    )
    runner.train()
    return model.state_dict()


@pytest.mark.slow
@FAMILIES
def test_equal_bits_after_20_steps(family, tmp_path, as_before, quick_runners):
    first, again, other = (trained(family, tmp_path / name, seed) for name, seed in (('a', 0), ('b', 0), ('c', 1)))
    assert torch.are_deterministic_algorithms_enabled()
    different = [name for name, value in first.items() if not torch.equal(value, again[name])]
    assert not different
    assert any(not torch.equal(value, other[name]) for name, value in first.items()), 'no number was random'
