"""The train.py that MMSegmentation and MMDetection ship finds `type='mmvim.Vim'` with no help from the config."""

import importlib.util
import sys
from pathlib import Path

import pytest
from tiny_runs import run

BACKBONES = {
    'mmseg': "dict(type='mmvim.Vim', arch=dict(embed_dims=16, depth=2), img_size=64, patch_size=8)",
    'mmdet': "dict(_delete_=True, type='mmvim.MambaVision', arch=dict(depths=(1, 1, 1, 1), dim=4, in_dim=4, "
    'num_heads=(1, 1, 1, 1), window_sizes=(8, 8, 4, 2)))',
}


@pytest.mark.parametrize(('library', 'fixture'), [('mmseg', 'seg'), ('mmdet', 'det')])
def test_stock_train(library, fixture, request, tmp_path):
    if library == 'mmdet':
        pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators, which detectors need')
    config = tmp_path / 'mine.py'
    base = str(request.getfixturevalue(fixture))
    config.write_text(f'_base_ = {base!r}\nmodel = dict(backbone={BACKBONES[library]})\n')
    tool = Path(importlib.util.find_spec(library).origin).parent / '.mim/tools/train.py'
    result = run(sys.executable, tool, config, '--work-dir', tmp_path / 'stock', cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert list((tmp_path / 'stock').glob('*.pth'))
