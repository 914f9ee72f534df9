"""Whole backbones on the Triton kernels, on the CPU, run by test_triton.py in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from families import FAMILY_CASES

from mmvim.ops.backends import ENV


@pytest.mark.parametrize('family', FAMILY_CASES)
def test_compile_without_graph_breaks(family, monkeypatch):
    """Fullgraph raises at the first graph break; what is compiled computes what PyTorch's scan does, gradients too."""
    monkeypatch.undo()  # torch.compile cannot trace the memory's poisoning
    model, picture = FAMILY_CASES[family].build_tiny().eval(), torch.randn(1, 3, 32, 32)
    found = []
    for backend in ('torch', 'triton'):
        monkeypatch.setenv(ENV, backend)
        run = torch.compile(model, fullgraph=True, backend='aot_eager') if backend == 'triton' else model
        model.zero_grad()
        outputs = run(picture)
        # Weights, because squares of what a norm has made are nearly constant: their gradients would be rounding alone.
        weights = torch.Generator().manual_seed(0)
        sum((y * torch.randn(y.shape, generator=weights)).mean() for y in outputs).backward()
        found.append([*outputs, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item() + 1e-7)


@pytest.mark.parametrize('family', FAMILY_CASES)
def test_hooks_of_norms_and_projections_fire(family, monkeypatch):
    """The kernel that adds and normalises must not run in the place of a norm that somebody observes."""
    monkeypatch.undo()
    monkeypatch.setenv(ENV, 'triton')
    model, picture, seen = FAMILY_CASES[family].build_tiny().eval(), torch.randn(1, 3, 32, 32), []
    plain = model(picture)
    watched = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.LayerNorm, torch.nn.RMSNorm)
    names = [name for name, module in model.named_modules() if isinstance(module, watched)]
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    for y, expected in zip(model(picture), plain, strict=True):
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    assert sorted(seen) == sorted(names) and len(names) > 5
