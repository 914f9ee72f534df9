"""Regions that are computed a second time in the backward pass: as without, buffers and random numbers included."""

import copy

import pytest
import torch
from families import each
from test_backbones import FIRST_VARIANTS, VARIANTS, build, image
from test_wrapped import assert_same, outputs_and_gradients
from torch import nn

# A plain backbone and a pyramid with batch norms: a compilation takes ten seconds, and all recompute by one function.
COMPILED = pytest.mark.parametrize(
    ('family', 'variant'),
    [
        pytest.param(*pair, marks=() if pair in (('vim', 'two'), ('mambavision', 'plain')) else pytest.mark.full)
        for pair in each('variants')
    ],
)


@VARIANTS
def test_recomputation_equals_none(family, variant):
    """Outputs, gradients, random numbers and every buffer, with stochastic depth on."""
    x = image(2, 3, 64, 48)
    results = []
    for with_cp in (False, True):
        model = build(family, variant, with_cp=with_cp, drop_path_rate=0.3).train()
        torch.manual_seed(3)
        for _ in range(2):
            found = outputs_and_gradients(model, x)
        results.append((found, dict(model.named_buffers()), torch.rand(1)))
    (plain, buffers, number), (again, other, other_number) = results
    assert_same(again, plain)
    assert number == other_number
    for key, value in buffers.items():
        torch.testing.assert_close(other[key], value, msg=key)


def test_recomputation_of_a_block_with_state_of_its_own():
    """A control: plain checkpointing counts twice, ours once."""
    from torch.utils.checkpoint import checkpoint

    from mmvim.models.layers.recompute import recompute

    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(4, 4)
            self.register_buffer('calls', torch.zeros(()))
            self.register_buffer('average', torch.zeros(4))

        def forward(self, x):
            self.calls += 1
            self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
            return super().forward(x).relu()

    x = torch.randn(8, 4, requires_grad=True)
    plain, ours = Counting(), Counting()
    checkpoint(plain, x, use_reentrant=False).sum().backward()
    recompute(ours, ours, x).sum().backward()
    assert (plain.calls, ours.calls) == (2, 1)
    torch.testing.assert_close(ours.average, 0.1 * x.detach().mean(0))


@pytest.mark.slow
@COMPILED
def test_recomputation_in_a_compiled_graph(family, variant):
    x, results = image(2, 3, 64, 48), []
    for compiled in (False, True):
        model = build(family, variant, with_cp=True, drop_path_rate=0.0).train()
        run = torch.compile(model, backend='aot_eager') if compiled else model
        for _ in range(2):
            model.zero_grad()
            sum(y.square().mean() for y in run(x)).backward()
        results.append({**{n: p.grad for n, p in model.named_parameters()}, **dict(model.named_buffers())})
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-4, atol=1e-6, msg=name)


@FIRST_VARIANTS
def test_activation_checkpointing_of_mmengine(family, variant):
    """Its option names modules by their place in the model; its own form of checkpointing loses every gradient."""
    from mmengine.runner import turn_on_activation_checkpointing
    from mmengine.runner.activation_checkpointing import wrap_forward

    x = image(2, 3, 64, 48)
    model = nn.ModuleDict({'backbone': build(family, variant, drop_path_rate=0.3)}).train()
    found = []
    for option in (False, True):
        again = copy.deepcopy(model)
        if option:
            turn_on_activation_checkpointing(again, ['backbone'])
        torch.manual_seed(3)
        outputs = again['backbone'](x)
        assert all(y.requires_grad for y in outputs)
        sum(y.square().sum() for y in outputs).backward()
        grads = {name: p.grad for name, p in again.named_parameters()}
        found.append(([y.detach() for y in outputs], grads, dict(again.named_buffers())))
    assert_same(found[1], found[0])
    for name, buffer in found[0][2].items():
        torch.testing.assert_close(found[1][2][name], buffer, msg=name)
    with pytest.warns(UserWarning):  # the control
        assert not any(y.requires_grad for y in wrap_forward(model['backbone'].forward)(x))
