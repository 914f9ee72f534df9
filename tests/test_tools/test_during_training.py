"""Pictures of predictions and trackers during a training by ``mmvim train``, each by one line of a config."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import demo_models as models
import numpy as np
import pytest
import tiny_runs as tiny
import torch
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from mmvim import cli
from mmvim.analysis.contact_sheet import IGNORED
from mmvim.analysis.palette import complete_palette
from mmvim.engine.hooks import DrawPredictionsHook

HOOK = "custom_hooks = [dict(type='mmvim.DrawPredictionsHook', interval=2, pictures=2, score_thr=0.0)]\n"
LOCAL = "dict(type='LocalVisBackend')"


def write(config, *backends):
    """Add the hook, and backends to a visualizer with a name of its own: MMEngine keeps one a name and process."""
    line = f'visualizer = dict(name={config.stem!r}, vis_backends=[{", ".join((LOCAL, *backends))}])\n'
    config.write_text(config.read_text() + HOOK + line)


def scalars(work_dir):
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def sheets(work_dir):
    return sorted(work_dir.glob('*/vis_data/vis_image/predictions_*.png'))


def test_a_segmentor(seg, tmp_path, train):
    write(seg)
    train.main([str(seg), '--work-dir', str(tmp_path / 'work')])
    drawn = sheets(tmp_path / 'work')
    assert [path.stem for path in drawn] == ['predictions_2', 'predictions_4']
    picture = np.asarray(Image.open(drawn[0]).convert('RGB')).astype(int)
    assert picture.shape[1] > 3 * 320  # a picture, its truth and its prediction
    truth = tiny.scene(100)  # of the first picture; the fourth class of ADE20K is floor, of which label 3 is made
    colour = np.array([80, 50, 50])
    assert ((np.abs(picture - colour).sum(-1) < 12).mean() > 0.01) == bool((truth == 3).any())
    last = scalars(tmp_path / 'work')[-2]
    assert last['state_max'] > 0 and last['pictures_per_s'] > 0
    (log,) = (tmp_path / 'work').glob('*/*.log')
    assert all(f'{name}: ' in log.read_text() for name in ('state_max', 'pictures_per_s', 'memory'))
    curve = np.asarray(Image.open(tmp_path / 'work/learning_curve.png').convert('RGB'))
    assert curve.shape[:2] == (360, 960)
    score = np.abs(curve.astype(int) - (209, 73, 91)).sum(-1) < 30  # of the second curve, mIoU
    assert score[:, 480:].sum() > 50 and not score[:, :450].any()


def test_a_detector(det, tmp_path, train):
    write(det)
    train.main([str(det), '--work-dir', str(tmp_path / 'work')])
    (sheet,) = sheets(tmp_path / 'work')
    picture = np.asarray(Image.open(sheet).convert('RGB'))
    assert picture.shape[1] > 2 * 320 and picture.std() > 20
    assert (tmp_path / 'work/learning_curve.png').is_file()


def test_a_panoptic_model(det, tmp_path):
    """Without a training, whose annotations panopticapi would read: what the hook does in one."""
    config = models.panoptic_config(tmp_path / 'pan.py', det)
    cfg = models.load(config)
    models.save_weights(config, tmp_path / 'pan.pth')
    init_default_scope('mmdet')
    model, dataset = cli.build_model(cfg), DATASETS.build(cfg.test_dataloader.dataset)
    model.load_state_dict(torch.load(tmp_path / 'pan.pth')['state_dict'])
    seen = []
    runner = SimpleNamespace(
        val_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset)),
        model=model.train(),
        hooks=[],
        iter=1,
        visualizer=SimpleNamespace(add_image=lambda *drawn: seen.append(drawn)),
    )
    hook = DrawPredictionsHook(interval=2, pictures=2, width=64)
    hook.before_train(runner)
    hook.after_train_iter(runner, 1)
    ((name, sheet, step),) = seen
    assert (name, step) == ('predictions', 2) and model.training
    with torch.no_grad():
        item = dataset[0]
        (sample,) = model.eval().test_step({key: [value] for key, value in item.items()})
    labels = sample.pred_panoptic_seg.sem_seg[0] % 1000
    palette = complete_palette(dataset.metainfo.get('palette'), 5)
    assert (labels < 5).any()
    for label in labels.unique().tolist():
        colour = palette[label] if label < 5 else IGNORED
        assert (np.abs(sheet[24:88, 146:210].astype(int) - np.array(colour)).sum(-1) < 12).any(), label


def test_a_run_without_validation_is_refused(seg, tmp_path, train):
    text = seg.read_text().replace('train_cfg = dict(max_iters=4, val_interval=2)', 'train_cfg = dict(max_iters=4)')
    seg.write_text(text + HOOK + 'val_cfg = None\nval_dataloader = None\nval_evaluator = None\n')
    with pytest.raises(ValueError, match='DrawPredictionsHook draws on validation pictures: set val_dataloader'):
        train.main([str(seg), '--work-dir', str(tmp_path / 'work')])


def test_tensorboard(seg, tmp_path, train):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    write(seg, "dict(type='TensorboardVisBackend')")
    train.main([str(seg), '--work-dir', str(tmp_path / 'work')])
    (events,) = (tmp_path / 'work').glob('*/vis_data/events*')
    found = accumulator.EventAccumulator(str(events))
    found.Reload()
    assert {'loss', 'pictures_per_s', 'state_max', 'mIoU'} <= set(found.Tags()['scalars'])
    assert [event.step for event in found.Images('predictions')] == [2, 4]


def test_trackio(seg, tmp_path):
    pytest.importorskip('trackio')
    write(seg, "dict(type='mmvim.TrackioVisBackend')")
    # in a process of its own: Trackio reads its folder when it is imported, and talks to nobody here
    closed = {'TRACKIO_DIR': str(tmp_path / 'kept'), 'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path / 'hf')}
    result = tiny.run(sys.executable, tiny.TOOLS / 'train.py', seg, '--work-dir', 'work', cwd=tmp_path, **closed)
    assert result.returncode == 0, result.stderr[-2000:]
    read = (
        'import json\n'
        'from trackio.sqlite_storage import SQLiteStorage as kept\n'
        "(run,) = kept.get_runs('mmvim')\n"
        "print(json.dumps([run, kept.get_logs('mmvim', run)], default=str))\n"
    )
    out = subprocess.run(
        [sys.executable, '-c', read],
        env={**os.environ, **closed},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    run, logs = json.loads(out.splitlines()[-1])
    assert run.startswith('work-')
    assert {'loss', 'state_max', 'mIoU', 'predictions'} <= {name for line in logs for name in line}
    pictures = list((tmp_path / 'kept').rglob('*.png'))
    assert len(pictures) == 2 and Image.open(pictures[0]).size[0] > 960
