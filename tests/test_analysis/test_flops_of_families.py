"""Every backbone's scan is counted, and a model is not counted without it."""

import pytest
import torch
from families import FAMILY_CASES

from mmvim.analysis.flops import UncountedScanError, count_complexity


def count(model, side):
    return count_complexity(model, lambda: model(torch.rand(1, 3, side, side)))


@pytest.mark.parametrize('family', FAMILY_CASES)
def test_the_scan_is_counted(family):
    model = FAMILY_CASES[family].build_tiny()
    counts = count(model, 64)
    assert 0 < counts[''].scan_flops < counts[''].flops
    assert counts[''].params == sum(p.numel() for p in model.parameters())
    assert sum(part.scan_flops for name, part in counts.items() if name) == counts[''].scan_flops
    assert count(model, 128)[''].scan_flops == 4 * counts[''].scan_flops, 'linear in the number of tokens'


@pytest.mark.parametrize('family', FAMILY_CASES)
def test_a_scan_that_is_not_counted_is_an_error(family):
    model = FAMILY_CASES[family].build_tiny(scan_backend='reference')
    with pytest.raises(UncountedScanError, match='no FLOP formula'):
        count(model, 32)
