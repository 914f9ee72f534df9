"""Memory that the operators do not initialise is NaN, so that reading it shows."""

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    with torch.device('cpu'):  # on its first use PyTorch notes which functions make tensors: these, not ours
        torch.empty(0)
    empty, new_empty, empty_like = torch.empty, torch.Tensor.new_empty, torch.empty_like

    def poison(x):
        return x.fill_(float('nan')) if x.is_floating_point() and x.device.type != 'meta' else x

    monkeypatch.setattr(torch, 'empty', lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, 'empty_like', lambda *a, **k: poison(empty_like(*a, **k)))
    monkeypatch.setattr(torch.Tensor, 'new_empty', lambda *a, **k: poison(new_empty(*a, **k)))
