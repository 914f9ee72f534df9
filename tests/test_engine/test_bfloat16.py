"""Training in bfloat16 on a CPU: what is computed in it, what is not, and that it learns what float32 learns."""

import copy

import pytest
import torch
from families import FAMILY_CASES
from torch import nn

from mmvim.engine.optimizers import Bfloat16OptimWrapper
from mmvim.engine.optimizers.bfloat16 import compute_in_float32

mmcv_ops = pytest.importorskip('mmcv.ops')


def gradients(model: nn.Module, x: torch.Tensor, wrapper: Bfloat16OptimWrapper | None) -> tuple[torch.Tensor, list]:
    """The gradient of all weights in one vector, and the dtypes of the outputs."""
    model.zero_grad()
    torch.manual_seed(2)  # of stochastic depth
    if wrapper is None:
        outputs = model(x)
    else:
        with wrapper.optim_context(model):
            outputs = model(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum((y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum() for y in outputs).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads) and grads
    return torch.cat([g.flatten() for g in grads]), [y.dtype for y in outputs]


@pytest.mark.parametrize('name', FAMILY_CASES)
def test_every_family(name):
    case = FAMILY_CASES[name]
    model = case.build_tiny().train()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    wrapper = Bfloat16OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    expected, _ = gradients(copy.deepcopy(model), x, None)
    found, _ = gradients(model, x, wrapper)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    likeness = torch.nn.functional.cosine_similarity(found, expected, dim=0)
    assert likeness > 0.98 and not torch.equal(found, expected)


def test_what_is_in_bfloat16_and_what_in_float32():
    seen = {}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.align = nn.Conv2d(3, 4, 1), mmcv_ops.RoIAlign(2, 1.0, 2)

        def forward(self, x, rois):
            seen['conv'] = self.conv(x)
            seen['align'] = self.align(seen['conv'], rois)
            return seen['align']

    net, x = Net(), torch.rand(1, 3, 8, 8)
    rois = torch.tensor([[0.0, 1, 1, 6, 6]])
    wrapper = Bfloat16OptimWrapper(optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    for _ in range(2):
        with wrapper.optim_context(net):
            net(x, rois).sum().backward()
    assert seen['conv'].dtype == torch.bfloat16
    assert seen['align'].dtype == torch.bfloat16, 'handed on as what came in'
    exact = mmcv_ops.RoIAlign(2, 1.0, 2)(seen['conv'].float(), rois)
    assert torch.equal(seen['align'], exact.bfloat16())
    assert len(net.align._forward_pre_hooks) == 1 and compute_in_float32(net) == 1

    def fail(*_):
        raise RuntimeError('of the operator')

    net.align.forward = fail
    with pytest.raises(RuntimeError, match='of the operator'), wrapper.optim_context(net):
        net(x, rois)
    assert not torch.is_autocast_enabled('cpu')
    del net.align.forward
    assert net(x, rois).dtype == torch.float32, 'outside nothing is changed'


def test_accumulated_gradients_and_clipping():
    model = nn.Linear(4, 1)
    wrapper = Bfloat16OptimWrapper(
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0), clip_grad={'max_norm': 0.5}, accumulative_counts=2
    )
    wrapper.initialize_count_status(model, 0, 4)
    before = model.weight.detach().clone()
    for step in range(2):
        with wrapper.optim_context(model):
            loss = model(torch.ones(1, 4)).sum()
        wrapper.update_params(loss)
        assert torch.equal(model.weight, before) == (step == 0)
    assert (model.weight - before).norm() < 0.5
