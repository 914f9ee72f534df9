"""MESA: its loss by hand, what it leaves alone, and a training that is resumed."""

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmvim.checkpoints import allow_checkpoint_globals
from mmvim.engine.hooks import MESAHook


class Classifier(BaseModel):
    """Dropout, which the average must not have, and batch norm between two layers."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        self.head = nn.Linear(6, 3)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.head(self.backbone(inputs))
        if mode == 'loss':
            return {'loss': nn.functional.cross_entropy(logits, data_samples)}
        return logits


class Watch(Hook):
    """What the model had and gave in each iteration."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.seen = []

    def before_train(self, runner):
        model = runner.model
        model.head.register_forward_hook(lambda head, args, output: self.logits.append(output.detach()))

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.logits, self.own = [], state(runner.model)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(
            {
                'logits': self.logits[0],
                'own': self.own,
                'inputs': data_batch['inputs'],
                'buffers': state(runner.model),
                'loss': (outputs or {}).get('loss_mesa'),
            }
        )


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def train(folder, hooks, epochs=2, train_cfg=None, **options):
    allow_checkpoint_globals()  # as tools/train.py does
    generator = torch.Generator().manual_seed(0)
    data = [{'inputs': torch.randn(4, generator=generator), 'data_samples': i % 3} for i in range(12)]
    torch.manual_seed(0)
    runner = Runner(
        Classifier(),
        str(folder),
        experiment_name=f'mesa{len(list(folder.parent.iterdir()))}',
        train_dataloader={
            'batch_size': 6,
            'dataset': data,
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'collate_fn': {'type': 'default_collate'},
        },
        train_cfg=train_cfg or {'by_epoch': True, 'max_epochs': epochs},
        custom_hooks=hooks,
        default_scope='mmengine',
        randomness={'seed': 0},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.5}},
        **options,
    )
    runner.train()
    return runner


def softmax(x, temperature):
    x = np.exp((x - x.max(1, keepdims=True)) / temperature)
    return x / x.sum(1, keepdims=True)


def test_the_loss_by_hand(tmp_path):
    """From its epoch on: the divergence from the average of all weights so far, on the same batch, in eval mode."""
    watch = Watch()
    train(tmp_path / 'a', [MESAHook(weight=0.5, temperature=2.0, begin_epoch=1, momentum=0.05), watch])
    assert [seen['loss'] is None for seen in watch.seen] == [True, True, False, False]
    average, checked = watch.seen[0]['own'], Classifier().eval()
    for step, seen in enumerate(watch.seen):
        if seen['loss'] is not None:
            # Before this iteration: buffers are the model's.
            checked.load_state_dict({**seen['own'], **{n: average[n] for n, _ in checked.named_parameters()}})
            with torch.no_grad():
                target = softmax(checked(seen['inputs']).double().numpy(), 2.0)
            soft = softmax(seen['logits'].double().numpy(), 2.0)
            expected = 0.5 * (target * np.log(target / soft)).sum(1).mean()
            assert expected > 1e-4 and seen['loss'].item() == pytest.approx(expected, rel=1e-4)
        # MMEngine's average takes the first weights that it is shown whole, the later ones by their share.
        after = seen['buffers']
        average = (
            after
            if step == 0
            else {n: average[n] + 0.05 * (v - average[n]) if v.is_floating_point() else v for n, v in after.items()}
        )


def test_it_has_an_effect_and_leaves_the_model_alone(tmp_path):
    with_it = train(tmp_path / 'a', [MESAHook(weight=5.0, temperature=1.0, begin_epoch=0, momentum=0.05)])
    without = train(tmp_path / 'b', [MESAHook(begin_epoch=99)])
    plain = train(tmp_path / 'c', [])
    assert with_it.model.state_dict().keys() == plain.model.state_dict().keys()
    assert all(torch.equal(value, plain.model.state_dict()[name]) for name, value in without.model.state_dict().items())
    assert not torch.equal(with_it.model.head.weight, plain.model.head.weight)
    assert not with_it.model._forward_hooks and not with_it.model.head._forward_hooks
    assert 'loss_mesa' not in with_it.model(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long), mode='loss')


def test_resumed(tmp_path):
    """A training that goes on has its average; one that only starts from weights begins anew."""

    class Begin(Hook):
        priority = 'VERY_LOW'

        def before_train(self, runner):
            self.average = state(hook.average)

    hook, begin = MESAHook(begin_epoch=0, momentum=0.05), Begin()
    train(tmp_path / 'a', [hook], epochs=1)
    stored = torch.load(tmp_path / 'a' / 'epoch_1.pth', weights_only=False)
    assert not torch.equal(stored['mesa_state_dict']['module.head.weight'], stored['state_dict']['head.weight'])
    assert stored['mesa_state_dict']['steps'] == 2
    hook = MESAHook(begin_epoch=0, momentum=0.05)
    train(tmp_path / 'a', [hook, begin], epochs=2, resume=True)
    assert begin.average.keys() == stored['mesa_state_dict'].keys()
    assert all(torch.equal(value, stored['mesa_state_dict'][name]) for name, value in begin.average.items())
    assert hook.average.steps == 4
    hook = MESAHook(begin_epoch=0, momentum=0.05)
    train(tmp_path / 'b', [hook, begin], epochs=1, load_from=str(tmp_path / 'a' / 'epoch_1.pth'))
    assert begin.average['steps'] == 0
    assert torch.equal(begin.average['module.head.weight'], stored['state_dict']['head.weight'])


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('weight', 0.0),
        ('weight', float('nan')),
        ('temperature', -1.0),
        ('begin_epoch', -1),
        ('momentum', 0.0),
        ('momentum', 0.9),
    ],
)
def test_options_out_of_range(option, value):
    with pytest.raises(ValueError, match=f'{option} must be'):
        MESAHook(**{option: value})


def test_trainings_without_epochs(tmp_path):
    iterations = {'by_epoch': False, 'max_iters': 2}
    with pytest.raises(ValueError, match='begin_epoch=5 never comes in a training that counts iterations'):
        train(tmp_path / 'a', [MESAHook()], train_cfg=iterations)
    runner = train(tmp_path / 'b', [MESAHook(begin_epoch=0, momentum=0.05)], train_cfg=iterations)
    assert runner.iter == 2 and 'train/loss_mesa' in runner.message_hub.log_scalars


def test_models_that_are_no_classifiers(tmp_path):
    class Headless(Classifier):
        def __init__(self):
            super().__init__()
            self.fc, self.head = self.head, None

    class Aside(Classifier):
        def forward(self, inputs, data_samples=None, mode='tensor'):
            return {'loss': (inputs @ self.backbone[0].weight.T).mean()}

    for model, match in ((Headless(), 'Headless has none'), (Aside(), 'the loss of Aside does not call its head')):
        runner = type('Runner', (), {'model': model, 'epoch': 9, 'train_loop': None})()
        hook = MESAHook()
        with pytest.raises(TypeError, match=match):
            hook.before_train(runner)
            hook.before_train_epoch(runner)
            model(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long), mode='loss')
