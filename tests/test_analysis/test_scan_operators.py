"""A layer says itself which operator a count of FLOPs must find in it."""

import pytest
import torch
from torch import nn

from mmvim.analysis.flops import UncountedScanError, count_complexity
from mmvim.models import VimMixer


class Mixer(nn.Module):
    """Runs a matrix product and says that it is its scan."""

    scan_operator = 'aten::mm'

    def forward(self, x):
        return x @ x


def test_a_mixer_of_its_own_operator():
    tokens = torch.ones(4, 4)
    counts = count_complexity(nn.Sequential(Mixer(), nn.Linear(4, 2, bias=False)), lambda: Mixer()(tokens))
    assert counts[''].scan_flops == counts[''].flops == counts[''].macs == 2 * 4**3
    with pytest.raises(UncountedScanError, match='no FLOP formula'):
        count_complexity(Mixer(), lambda: tokens + tokens)


def test_two_kinds_of_scans():
    """One that was counted does not stand for one that was not."""
    mixer = VimMixer(8, d_state=4)
    both = nn.ModuleList([mixer, Mixer()])
    tokens = torch.zeros(1, 4, 8)
    assert count_complexity(both, lambda: (mixer(tokens), both[1](tokens[0, :, :4])))[''].scan_flops > 0
    both[1].scan_operator = 'mmvim::another_scan'
    with pytest.raises(UncountedScanError):
        count_complexity(both, lambda: mixer(tokens))
