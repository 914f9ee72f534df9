"""The own train.py of MMSegmentation and MMDetection takes mmvim's types and configs, as files and as printed."""

import importlib.util
import signal
import sys
from pathlib import Path

import pytest
from checkout import CONFIGS
from test_faults import log, saved
from tiny_runs import run

pytestmark = pytest.mark.slow
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


KILLED = """
_base_ = {base!r}
custom_imports = dict(imports=['mmvim', 'fault_parts'])
custom_hooks = {hooks}
default_hooks = dict(checkpoint=dict(type='mmvim.CheckpointHook', interval=2, max_keep_ckpts=1))
val_cfg = val_dataloader = val_evaluator = None
train_cfg = dict(max_iters=8)
"""


def test_a_stock_run_that_is_killed_resumes(seg, tmp_path):
    """Two checkpoints of which one is kept, and a death when the third is about to be written: the second is there."""
    tool = Path(importlib.util.find_spec('mmseg').origin).parent / '.mim/tools/train.py'
    hooks, work = [{'type': 'KilledWhileSaving', 'iteration': 6}], tmp_path / 'work'
    (tmp_path / 'killed.py').write_text(KILLED.format(base=str(seg), hooks=hooks))
    (tmp_path / 'again.py').write_text(KILLED.format(base=str(seg), hooks=[]))
    env = {'PYTHONPATH': str(Path(__file__).parent)}
    killed = run(sys.executable, tool, 'killed.py', '--work-dir', work, cwd=tmp_path, **env)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert saved(work) == 4 and [path.name for path in work.glob('*.pth')] == ['iter_4.pth']
    resumed = run(sys.executable, tool, 'again.py', '--work-dir', work, '--resume', cwd=tmp_path, **env)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert 'iter: 4' in log(work) and saved(work) == 8
    assert sorted(path.name for path in work.iterdir() if path.suffix in ('.pth', '.partial')) == ['iter_8.pth']


# One iteration of two small pictures; nothing is saved.
SHORT = (
    'train_dataloader.batch_size=2 train_dataloader.num_workers=0 train_dataloader.persistent_workers=False '
    'val_cfg=None val_dataloader=None val_evaluator=None default_hooks.logger.interval=1 '
    'default_hooks.checkpoint.interval=9 default_hooks.checkpoint.save_last=False'
)
PRINTED = {
    'upernet_vim_t_ade20k': (
        'train_cfg.max_iters=1 train_dataloader.dataset.pipeline.2.scale=(64,64) '
        'train_dataloader.dataset.pipeline.3.crop_size=(64,64) model.data_preprocessor.size=(64,64) '
        'model.backbone.img_size=64 model.decode_head.channels=16 model.auxiliary_head.channels=16'
    ),
    'mask_rcnn_mambavision_t_coco': (
        'train_cfg.max_epochs=1 train_dataloader.dataset.pipeline.3.scale=(64,64) optim_wrapper.type=OptimWrapper '
        'model.backbone.window_sizes=(8,8,4,2) model.roi_head.bbox_head.fc_out_channels=16 '
        'train_dataloader.dataset.ann_file=instances.json train_dataloader.dataset.data_prefix.img=images/ '
        'train_dataloader.dataset.metainfo.classes=(red,green,blue)'
    ),
}


def train_a_step(library, config, options, root, work_dir):
    """Run the library's own train.py."""
    tool = Path(importlib.util.find_spec(library).origin).parent / '.mim/tools/train.py'
    options = (*SHORT.split(), *options.split(), f'train_dataloader.dataset.data_root={root}')
    result = run(sys.executable, tool, config, '--work-dir', 'stock', '--cfg-options', *options, cwd=work_dir)
    assert result.returncode == 0, result.stderr[-2000:]
    [scalars] = (work_dir / 'stock').rglob('scalars.json')
    assert '"loss"' in scalars.read_text()


READ = """
import sys
from mmengine.config import Config
cfg = Config.fromfile('mine.py')
assert 'mmvim' not in sys.modules
print(cfg.model.backbone.type)
"""


@pytest.mark.parametrize(('library', 'data', 'name'), [*zip(('mmseg', 'mmdet'), ('ade', 'coco'), PRINTED, strict=True)])
def test_stock_train_takes_a_printed_config(library, data, name, request, tmp_path):
    """``mmvim config NAME > mine.py``, and from there without mmvim until the registry asks for its types."""
    root = request.getfixturevalue(data)
    printed = run(sys.executable, '-m', 'mmvim', 'config', name, cwd=tmp_path)
    assert printed.returncode == 0, printed.stderr
    assert max(map(len, printed.stdout.splitlines())) < 120, 'not formatted'
    (tmp_path / 'mine.py').write_text(printed.stdout)
    read = run(sys.executable, '-c', READ, cwd=tmp_path)
    assert read.stdout.startswith('mmvim.'), read.stderr[-2000:]
    train_a_step(library, 'mine.py', PRINTED[name], root, tmp_path)


@pytest.mark.parametrize(('library', 'data', 'name'), [*zip(('mmseg', 'mmdet'), ('ade', 'coco'), PRINTED, strict=True)])
def test_stock_train_takes_an_entry(library, data, name, request, tmp_path):
    """By its path, though it inherits from another library's configs, and nothing imports mmvim."""
    train_a_step(library, CONFIGS / f'{name}.py', PRINTED[name], request.getfixturevalue(data), tmp_path)
