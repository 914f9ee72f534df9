"""Whole backbones on the Triton kernels, on the CPU, run by test_triton.py in a process with TRITON_INTERPRET=1."""

import pytest
import torch

from mmvim.models.backbones import MambaVision, Vim
from mmvim.ops.backends import ENV


def small_model(name):
    torch.manual_seed(0)
    if name == 'Vim':
        return Vim(arch={'embed_dims': 16, 'depth': 1}, img_size=32, out_indices=(0,))
    return MambaVision(
        arch={'depths': (1, 1, 2, 2), 'dim': 16, 'in_dim': 8, 'num_heads': (1, 1, 1, 1), 'window_sizes': (8, 8, 2, 2)}
    )


@pytest.mark.parametrize('name', ['Vim', 'MambaVision'])
def test_compile_without_graph_breaks(name, monkeypatch):
    """Fullgraph raises at the first graph break; what is compiled computes what PyTorch's scan does, gradients too."""
    monkeypatch.undo()  # torch.compile cannot trace the memory's poisoning
    model, picture = small_model(name).eval(), torch.randn(1, 3, 32, 32)
    found = []
    for backend in ('torch', 'triton'):
        monkeypatch.setenv(ENV, backend)
        run = torch.compile(model, fullgraph=True, backend='aot_eager') if backend == 'triton' else model
        model.zero_grad()
        outputs = run(picture)
        sum(y.square().mean() for y in outputs).backward()
        found.append([*outputs, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item() + 1e-7)
