"""Counts of FLOPs against counts by hand."""

import pytest
import torch
from checkout import load_tool
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from mmvim.analysis.flops import Complexity, count_complexity


@pytest.fixture(scope='module')
def get_flops():
    return load_tool('analysis_tools/get_flops.py')


class Parts(nn.Module):
    """A convolution that is called, and a head whose `forward` is, as mmseg's segmentors do."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.head = nn.Sequential(nn.Conv2d(8, 2, 1))

    def forward(self, x):
        return self.head.forward(self.backbone(x))


def test_parts():
    model = Parts()
    counts = count_complexity(model, lambda: model(torch.rand(2, 3, 5, 7)))
    backbone, head = 2 * 5 * 7 * 8 * 3 * 9, 2 * 5 * 7 * 2 * 8
    assert counts['backbone'] == Complexity(params=216, flops=2 * backbone, scan_flops=0)
    assert counts['head'] == Complexity(params=18, flops=2 * head, scan_flops=0)
    assert counts[''] == Complexity(params=234, flops=2 * (backbone + head), scan_flops=0)
    assert counts[''].macs == backbone + head
    assert model.training


def test_attention_on_a_cpu():

    class Attention(nn.Module):
        def forward(self, x):
            return scaled_dot_product_attention(x, x[..., :6, :], x[..., :6, :])

    model = Attention()
    counts = count_complexity(model, lambda: model(torch.rand(2, 3, 10, 4)))
    assert counts[''].flops == 2 * (2 * 3 * 10 * 6 * 4) * 2  # two products


def test_scan_is_counted(seg):
    """Linear in the number of tokens; the rest is what the other layers take."""
    from mmvim import cli
    from mmvim.analysis.flops import forward_once

    cfg = cli.load_config(str(seg))
    model = cli.build_model(cfg)
    counts = {shape: count_complexity(model, forward_once(model, cfg, shape)) for shape in ((64, 64), (64, 128))}
    small, large = (count['backbone'] for count in counts.values())
    assert small.scan_flops > 0
    assert large.scan_flops == 2 * small.scan_flops
    tokens, width, inner, blocks = 64, 16, 32, 2
    # Of each block, the two projections alone, without the short convolution and the projections to delta, B and C.
    assert small.flops - small.scan_flops > blocks * 2 * tokens * 3 * width * inner
    assert counts[64, 64]['decode_head'].flops == 2 * tokens * (16 * 16 * 9 + 16 * 150)


def test_scan_that_cannot_be_counted(get_flops, fails, seg, monkeypatch):
    monkeypatch.setenv('MMVIM_SCAN_BACKEND', 'reference')
    assert 'no FLOP formula' in fails(get_flops.main, seg, status=1)


def test_segmentor(get_flops, seg, capsys):
    get_flops.main([str(seg)])
    out = capsys.readouterr().out
    assert '64 x 64' in out and 'backbone' in out and 'decode_head' in out and 'whole' in out


def test_detector(get_flops, det, capsys):
    """Padded to 32 as the preprocessor does; the heads run on proposals."""
    get_flops.main([str(det), '--shape', '60', '90'])
    out = capsys.readouterr().out
    assert '60 x 90' in out and 'roi_head' in out


@pytest.mark.parametrize('which', ['seg', 'det'])
def test_pictures_of_five_bands(which, get_flops, request, capsys):
    """The stem costs by its channels, and the rest what it costs anyway."""
    from mmvim import cli
    from mmvim.analysis.flops import forward_once

    config, counts = request.getfixturevalue(which), {}
    for channels in (3, 5):
        cfg = cli.load_config(str(config), {'model.backbone.in_channels': channels})
        model = cli.build_model(cfg)
        counts[channels] = count_complexity(model, forward_once(model, cfg, (64, 64)))
    stem = 2 * 64 * 64 * 16 * 2 if which == 'seg' else 2 * 32 * 32 * 49 * 4 * 2  # of two more channels
    assert counts[5][''].flops - counts[3][''].flops == stem or which == 'det'
    assert counts[5]['backbone'].flops - counts[3]['backbone'].flops == stem
    get_flops.main([str(config), '--shape', '64', '--cfg-options', 'model.backbone.in_channels=5'])
    assert 'whole' in capsys.readouterr().out


def test_bad_input(get_flops, fails, seg):
    assert '--shape' in fails(get_flops.main, seg, '--shape', '1', '2', '3', status=2)
    assert '--shape' in fails(get_flops.main, seg, '--shape', '0', status=2)
    assert 'does not exist' in fails(get_flops.main, seg.with_name('no.py'), status=2)
    assert 'bakbone' in fails(get_flops.main, seg, '--cfg-options', 'model.bakbone.arch=tiny', status=2)
