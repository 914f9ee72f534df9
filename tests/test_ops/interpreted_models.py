"""Whole backbones on the Triton kernels, on the CPU, run by test_triton.py in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from families import FAMILY_CASES, build_smallest
from hooked import assert_hooks_fire
from short_training import train

from mmvim.ops.backends import ENV

FAMILIES = pytest.mark.parametrize('family', FAMILY_CASES)


def compare(model, run, picture, monkeypatch):
    """Hold outputs and gradients of ``run``, on Triton, to those of the model on PyTorch's scan."""
    found = []
    for backend, function in (('torch', model), ('triton', run)):
        monkeypatch.setenv(ENV, backend)
        model.zero_grad()
        outputs = function(picture)
        # Weights, because squares of what a norm has made are nearly constant: their gradients would be rounding alone.
        weights = torch.Generator().manual_seed(0)
        sum((y * torch.randn(y.shape, generator=weights)).mean() for y in outputs).backward()
        found.append([*outputs, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item() + 1e-7)


@FAMILIES
def test_outputs_and_gradients(family, monkeypatch):
    model, picture = build_smallest(family)
    compare(model, model, picture, monkeypatch)


# One of each op and of its operators; tracing takes longer than all kernels. On other backends all are compiled.
COMPILED = 'vim', 'mambavision', 'vrwkv'


@pytest.mark.parametrize(
    'family', [pytest.param(name, marks=[pytest.mark.full] * (name not in COMPILED)) for name in FAMILY_CASES]
)
def test_compile_without_graph_breaks(family, monkeypatch):
    """Fullgraph raises at the first graph break."""
    monkeypatch.undo()  # torch.compile cannot trace the memory's poisoning
    model, picture = build_smallest(family)
    compare(model, torch.compile(model, fullgraph=True, backend='aot_eager'), picture, monkeypatch)


@FAMILIES
def test_hooks_fire(family, monkeypatch):
    """Those of blocks and mixers; and the kernel that adds and normalises must not run where a norm is observed."""
    model, picture = build_smallest(family)
    assert_hooks_fire(model, FAMILY_CASES[family].blocks(model), picture, 'triton', monkeypatch)


@pytest.mark.full
@FAMILIES
def test_losses_of_three_steps_are_those_of_the_definition(family, monkeypatch):
    monkeypatch.undo()  # a training makes new tensors of PyTorch's own, which need not be NaN
    options = {'count': 2, 'batch_statistics': False}  # two pictures, for time; a batch norm would make signs of them
    expected = train(family, 3, 'reference', **options).losses
    assert train(family, 3, 'triton', **options).losses == pytest.approx(expected, rel=1e-5)
