"""Train, resume and evaluate tiny models of both libraries as a user does."""

import pickle
import shutil
import sys

import cv2
import pytest
import tiny_runs as tiny
import torch


def run_config(folder, name, base, text=''):
    """A config of its own for each run: MMEngine shares loggers and message hubs between runs of one name."""
    path = folder / f'{name}_{folder.name}.py'
    path.write_text(f"_base_ = './{base.name}'\n{text}")
    return path


def load(path):
    return torch.load(path, weights_only=False)


def differing(a, b):
    """Names of weights and optimizer states that are not equal to the bit."""
    names = [name for name, value in a['state_dict'].items() if not torch.equal(value, b['state_dict'][name])]
    for key, state in a['optimizer']['state'].items():
        names += [
            f'{key}.{n}'
            for n, v in state.items()
            if isinstance(v, torch.Tensor) and not torch.equal(v, b['optimizer']['state'][key][n])
        ]
    assert a.get('param_schedulers') == b.get('param_schedulers')
    return names


def interrupt_and_resume(train, folder, base, first, last, text=''):
    """Train ``first``'s and ``last``'s iterations or epochs in two runs without a seed, and in one run with its seed.

    Returns:
        The checkpoint of the interrupted run, and the last ones of the resumed and of the straight run.
    """
    part, whole = folder / 'part', folder / 'whole'
    train.main([str(run_config(folder, 'first', base, text)), '--work-dir', str(part), '--cfg-options', first])
    [saved] = part.glob('*.pth')
    seed = load(saved)['meta']['seed']
    train.main([str(run_config(folder, 'second', base, text)), '--work-dir', str(part), '--resume'])
    train.main(
        [
            str(run_config(folder, 'whole', base, text)),
            '--work-dir',
            str(whole),
            '--cfg-options',
            f'randomness.seed={seed}',
        ]
    )
    return saved, load(part / last), load(whole / last)


@pytest.mark.slow
def test_resume_goes_on_as_if_never_stopped(train, tmp_path, seg):
    """Random crops, flips, colours, dropout and stochastic depth; validation where the first run stopped."""
    saved, resumed, whole = interrupt_and_resume(train, tmp_path, seg, 'train_cfg.max_iters=2', 'iter_4.pth')
    assert resumed['meta']['iter'] == whole['meta']['iter'] == 4
    assert differing(resumed, whole) == []

    # The control: without the random state the same two iterations give other weights.
    checkpoint = load(saved)
    del checkpoint['random_state']
    torch.save(checkpoint, tmp_path / 'without.pth')
    train.main(
        [
            str(run_config(tmp_path, 'without', seg)),
            '--work-dir',
            str(tmp_path / 'without'),
            '--resume',
            str(tmp_path / 'without.pth'),
        ]
    )
    assert differing(load(tmp_path / 'without' / 'iter_4.pth'), whole) != []


@pytest.mark.slow
def test_resume_with_workers(train, tmp_path, seg):
    """Crops, flips and colours are drawn in two other processes, dropout and stochastic depth in this one."""
    text = (
        'val_cfg = val_dataloader = val_evaluator = None\n'
        'train_dataloader = dict(num_workers=2, persistent_workers=True)\n'
    )
    _, resumed, whole = interrupt_and_resume(train, tmp_path, seg, 'train_cfg.max_iters=2', 'iter_4.pth', text)
    assert differing(resumed, whole) == []


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_resume_by_epoch(train, tmp_path, det, workers):
    """Mask R-CNN draws its samples of proposals, and flips are drawn in the workers, which begin with each epoch."""
    text = f'train_cfg = dict(max_epochs=2)\ntrain_dataloader = dict(num_workers={workers})\n'
    _, resumed, whole = interrupt_and_resume(train, tmp_path, det, 'train_cfg.max_epochs=1', 'epoch_2.pth', text)
    assert resumed['meta']['iter'] == whole['meta']['iter'] == 6
    assert differing(resumed, whole) == []


def test_resume_from_nothing_starts(train, tmp_path, seg, capsys):
    config = run_config(tmp_path, 'start', seg, 'val_cfg = val_dataloader = val_evaluator = None\n')
    train.main(
        [str(config), '--work-dir', str(tmp_path / 'work'), '--resume', '--cfg-options', 'train_cfg.max_iters=1']
    )
    assert 'starting at iteration 0' in capsys.readouterr().err
    assert load(tmp_path / 'work' / 'iter_1.pth')['meta']['iter'] == 1


def test_resume_in_a_work_dir_that_was_moved(train, tmp_path, seg):
    from mmvim.cli.weights import last_checkpoint

    (tmp_path / 'iter_2.pth').write_bytes(b'')
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/iter_2.pth')
    assert last_checkpoint(tmp_path) == str(tmp_path / 'iter_2.pth')


def test_checkpoint_is_plain_weights_and_known_classes(train, tmp_path, seg):
    """What MMEngine 0.10.7 needs under PyTorch 2.6 and later, where torch.load is restricted by default."""
    from mmvim.checkpoints import checkpoint_globals

    train.main(
        [
            str(run_config(tmp_path, 'plain', seg)),
            '--work-dir',
            str(tmp_path / 'work'),
            '--cfg-options',
            'train_cfg.max_iters=2',
        ]
    )
    path = tmp_path / 'work' / 'iter_2.pth'
    torch.serialization.clear_safe_globals()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    with torch.serialization.safe_globals(checkpoint_globals()):
        checkpoint = torch.load(path, weights_only=True)
    assert checkpoint['message_hub']['log_scalars']['train/loss'].statistics('max') > 0


def test_safe_globals_give_no_other_attribute():
    from mmvim.checkpoints.files.safe_globals import _statistics_method

    with pytest.raises(ValueError, match='asks for'):
        _statistics_method(torch, 'load')


def test_precision_without_gpu(train, tmp_path, ade, monkeypatch, capsys):
    from mmvim.cli import machine

    monkeypatch.setattr(machine, 'has_accelerator', lambda: False)
    config = tiny.seg_config(tmp_path / f'amp_{tmp_path.name}.py', ade, wrapper='AmpOptimWrapper')
    train.main(
        [
            str(config),
            '--work-dir',
            str(tmp_path / 'work'),
            '--cfg-options',
            'train_cfg.max_iters=2',
            'optim_wrapper.loss_scale=dynamic',
            'optim_wrapper.dtype=bfloat16',
        ]
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('warning: ')]
    assert len(lines) == 1 and 'fp32' in lines[0]
    assert load(tmp_path / 'work' / 'iter_2.pth')['meta']['iter'] == 2


def test_amp_with_gpu(seg, monkeypatch):
    from mmvim import cli
    from mmvim.cli import machine

    monkeypatch.setattr(machine, 'has_accelerator', lambda: True)
    cfg = cli.load_config(str(seg))
    cli.set_precision(cfg, amp=True)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.loss_scale == 'dynamic'


def test_learning_rate_scales_with_the_batch(train, tmp_path, seg):
    options = ('--cfg-options', 'train_cfg.max_iters=2', 'auto_scale_lr.base_batch_size=8')
    train.main(
        [str(run_config(tmp_path, 'scaled', seg)), '--work-dir', str(tmp_path / 'work'), '--auto-scale-lr', *options]
    )
    [group] = load(tmp_path / 'work' / 'iter_2.pth')['optimizer']['param_groups']
    assert group['initial_lr'] == pytest.approx(1e-3 * 2 / 8)


def test_check_writes_nothing(train, tmp_path, seg):
    before = sorted(tmp_path.rglob('*'))
    train.main([str(seg), '--work-dir', str(tmp_path / 'work'), '--check'])
    assert sorted(tmp_path.rglob('*')) == before


@pytest.fixture(scope='module')
def segmentor(train, tmp_path_factory, ade):
    """A trained segmentor: config and checkpoint."""
    folder = tmp_path_factory.mktemp('segmentor')
    config = tiny.seg_config(folder / f'{folder.name}.py', ade)
    train.main([str(config), '--work-dir', str(folder / 'work')])
    return config, folder / 'work' / 'iter_4.pth'


@pytest.fixture(scope='module')
def detector(train, tmp_path_factory, coco):
    """A trained detector: config and checkpoint."""
    folder = tmp_path_factory.mktemp('detector')
    config = tiny.det_config(folder / f'{folder.name}.py', coco)
    train.main([str(config), '--work-dir', str(folder / 'work')])
    return config, folder / 'work' / 'epoch_1.pth'


def test_test_segmentor(evaluate, tmp_path, segmentor):
    config, checkpoint = segmentor
    shutil.copy(config, tmp_path / config.name)
    evaluate.main(
        [
            str(tmp_path / config.name),
            str(checkpoint),
            '--work-dir',
            str(tmp_path / 'work'),
            '--out',
            str(tmp_path / 'out'),
            '--show-dir',
            str(tmp_path / 'vis'),
            '--tta',
            '--cfg-options',
            f'visualizer.name={tmp_path.name}',
        ]
    )
    maps = sorted((tmp_path / 'out').glob('*.png'))
    assert [m.name for m in maps] == ['ADE_000.png', 'ADE_001.png']
    labels = cv2.imread(str(maps[0]), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (tiny.SIZE, tiny.SIZE) and labels.min() >= 1  # as ADE20K counts: classes from 1
    assert len(list((tmp_path / 'vis').rglob('*.png'))) == 2
    [scores] = (tmp_path / 'work').glob('*/*.json')
    assert 'mIoU' in scores.read_text()


def test_test_detector(evaluate, tmp_path, detector, fails):
    config, checkpoint = detector
    run = tmp_path / f'{tmp_path.name}.py'
    shutil.copy(config, run)
    command = [str(run), str(checkpoint), '--work-dir', str(tmp_path / 'work')]
    assert 'masks' in fails(evaluate.main, *command, '--tta', status=2)
    assert '.pkl' in fails(evaluate.main, *command, '--out', 'predictions', status=2)
    evaluate.main(
        [
            *command,
            '--out',
            str(tmp_path / 'out.pkl'),
            '--show-dir',
            'vis',
            '--cfg-options',
            f'visualizer.name={tmp_path.name}',
        ]
    )
    with open(tmp_path / 'out.pkl', 'rb') as stream:
        predictions = pickle.load(stream)
    assert len(predictions) == 3 and 'masks' in predictions[0]['pred_instances']
    assert len(list((tmp_path / 'work').glob('*/vis/*.jpg'))) == 3
    [scores] = (tmp_path / 'work').glob('*/*.json')
    assert 'segm_mAP' in scores.read_text()


def test_tta_of_a_box_detector(evaluate, tmp_path, detector, capsys):
    """The default augmentation of mmdet configs; weights that the model does not use are named."""
    config, checkpoint = detector
    run = tmp_path / f'{tmp_path.name}.py'
    shutil.copy(config, run)
    evaluate.main(
        [
            str(run),
            str(checkpoint),
            '--work-dir',
            str(tmp_path / 'work'),
            '--tta',
            '--cfg-options',
            'model.type=FasterRCNN',
            'model.roi_head.mask_roi_extractor=None',
            'model.roi_head.mask_head=None',
            'test_evaluator.metric=bbox',
        ]
    )
    assert 'weights that this FasterRCNN does not use' in capsys.readouterr().err
    [scores] = (tmp_path / 'work').glob('*/*.json')
    assert 'bbox_mAP' in scores.read_text()


@pytest.mark.slow
def test_from_a_shell(evaluate, segmentor, tmp_path):
    """In a folder of the user's own, with the default work dir."""
    config, checkpoint = segmentor
    result = tiny.run(sys.executable, tiny.TOOLS / 'test.py', config, checkpoint, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / 'work_dirs' / config.stem).glob('*/*.json'))
