"""The benchmark of backbones runs, and its peer computes the same in both ways of attention."""

import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'analysis_tools'


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import benchmark_backbone
    import deit

    return benchmark_backbone, deit


def test_attention_plain_and_fused(tools):
    _, deit = tools
    torch.manual_seed(0)
    plain, fused = deit.DeiT(48, 128, False, depth=2), deit.DeiT(48, 128, True, depth=2)
    fused.load_state_dict(plain.state_dict())
    picture = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(fused(picture), plain(picture), rtol=1e-4, atol=1e-5)
    assert plain(picture).shape == (2, 3, 3, 128)
    size = sum(p.numel() for p in deit.DeiT(224, 192, True).parameters())
    assert size == 5_717_416 - 193_000  # the published DeiT-T without its classifier of 1000 classes


@pytest.mark.parametrize('channels', ['3', '5'])
def test_table_and_chart(channels, tools, monkeypatch, tmp_path):
    benchmark, deit = tools
    monkeypatch.setattr(
        benchmark,
        'models',
        lambda channels: {
            'DeiT-T, plain': lambda side: deit.DeiT(side, 64, False, depth=1, channels=channels),
            'DeiT-T, fused': lambda side: deit.DeiT(side, 64, True, depth=1, channels=channels),
        },
    )
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'benchmark_backbone.py',
            '--sides',
            '32',
            '48',
            '--batch',
            '1',
            '--channels',
            channels,
            '--seconds',
            '0',
            '--markdown',
            str(tmp_path / 't.md'),
            '--json',
            str(tmp_path / 't.json'),
            '--chart',
            str(tmp_path / 't.png'),
        ],
    )
    benchmark.main()
    lines = (tmp_path / 't.md').read_text().splitlines()
    assert len(lines) == 8 and lines[4].startswith('| DeiT-T, plain | 32 | 1 |') and ' 1.00 ' in lines[4]
    assert (tmp_path / 't.png').stat().st_size > 1000 and (tmp_path / 't.json').exists()


@pytest.fixture
def backbones(tools):
    import backbones

    return backbones


def test_models_come_from_the_families(tools, backbones):
    """By parts of names as ever, or any published architecture of any family."""
    benchmark, deit = tools
    usual = benchmark.models()
    assert {'Vim-T', 'Vim-S', 'MambaVision-T', 'MambaVision-S', 'DeiT-T, plain', 'DeiT-S, fused'} <= usual.keys()
    assert benchmark.chosen_models('').keys() == usual.keys()
    assert benchmark.chosen_models('DeiT-T, plain').keys() == {'DeiT-T, plain'}
    chosen = benchmark.chosen_models('vim:base,mambavision:large2,DeiT-S')
    assert list(chosen) == ['Vim-B', 'MambaVision-L2', 'DeiT-S, plain', 'DeiT-S, fused']
    for wrong in ('ViT', 'vim:huge', 'vit:tiny'):
        with pytest.raises(SystemExit, match=f"--models '{wrong}' fits none of: .*Vim-T.* vim:tiny"):
            benchmark.chosen_models(wrong)
    with torch.device('meta'):
        assert usual['Vim-T'](512).grid_size == (32, 32)
        assert chosen['Vim-B'](224).embed_dims == 768
        assert isinstance(usual['DeiT-S, plain'](224), deit.DeiT)
        assert backbones.make('vim:tiny', 64, (5, 23)).out_indices == (5, 23)
        assert backbones.make('vmamba:tiny', 64, channels=7).patch_embed[0].in_channels == 7
        assert benchmark.chosen_models('DeiT-T, plain', 7)['DeiT-T, plain'](64).patches.in_channels == 7
    assert backbones.dense_outputs('vim:tiny') == (5, 11, 17, 23)
    assert backbones.dense_outputs('mambavision:tiny') == (0, 1, 2, 3)
