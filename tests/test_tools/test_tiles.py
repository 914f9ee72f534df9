"""Tiles from the command line, in a config, and in MMSegmentation's own APIs."""

import json

import cv2
import numpy as np
import pytest
import tiny_runs as tiny
import torch

pytest.importorskip('mmseg')


@pytest.fixture(scope='module')
def trained(train, tmp_path_factory, ade):
    """A config without Resize in its test pipeline, and a checkpoint."""
    folder = tmp_path_factory.mktemp('tiles')
    config = tiny.seg_config(folder / f'{folder.name}.py', ade)
    whole = "    dict(type='Resize', scale=(64, 64), keep_ratio=True),\n    dict(type='LoadAnnotations', reduce_zero"
    text = config.read_text()
    assert whole in text
    config.write_text(text.replace(whole, "    dict(type='LoadAnnotations', reduce_zero"))
    train.main([str(config), '--work-dir', str(folder / 'work')])
    return config, folder / 'work' / 'iter_4.pth'


def label_maps(evaluate, config, checkpoint, folder, *options):
    name = f'{folder.name}_{len(list(folder.iterdir()))}'
    out = folder / name
    # a folder of its own: MMEngine names a run's files by the second
    evaluate.main([str(config), str(checkpoint), '--work-dir', str(folder / 'work' / name), '--out', str(out)]
                  + [*options, '--cfg-options', f'visualizer.name={name}'])  # fmt: skip
    return {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(out.glob('*.png'))}


@pytest.mark.slow
def test_the_command(evaluate, trained, ade, tmp_path, capsys):
    config, checkpoint = trained
    from mmseg.apis import init_model

    from mmvim.analysis.tiled import predict_tiled

    whole = label_maps(evaluate, config, checkpoint, tmp_path)
    once = label_maps(evaluate, config, checkpoint, tmp_path, '--tile', '64')
    tiles = label_maps(evaluate, config, checkpoint, tmp_path, '--tile', '32', '40', '--overlap', '16')
    assert whole.keys() == once.keys() == tiles.keys() and len(whole) == 2
    model = init_model(str(config), str(checkpoint), device='cpu')
    for name, labels in whole.items():
        assert np.array_equal(once[name], labels), 'one tile is the picture'
        picture = cv2.imread(str(ade / 'images' / 'validation' / name.replace('.png', '.jpg')))
        by_hand = predict_tiled(model, picture, tile=(32, 40), overlap=16)
        assert np.array_equal(tiles[name], by_hand + 1), 'counted from 1, as ADE20K does'
    scores = [json.loads(path.read_text()) for path in (tmp_path / 'work').glob('*/*/*.json')]
    assert len(scores) == 3 and all('mIoU' in score for score in scores)
    assert 'warning: --tile' not in capsys.readouterr().err


@pytest.mark.full
def test_in_a_config_and_in_the_librarys_own_apis(evaluate, trained, ade, tmp_path):
    config, checkpoint = trained
    from mmseg.apis import MMSegInferencer, inference_model, init_model

    tiled = config.with_name(f'tiled_{tmp_path.name}.py')
    tiled.write_text(
        f"_base_ = './{config.name}'\n"
        "model = dict(_delete_=True, type='mmvim.TiledSegmentor', module={{_base_.model}}, tile=32, overlap=16)\n"
    )
    found = label_maps(evaluate, tiled, checkpoint, tmp_path)
    by_option = label_maps(evaluate, config, checkpoint, tmp_path, '--tile', '32', '--overlap', '16')
    assert found.keys() == by_option.keys() and all(np.array_equal(found[name], by_option[name]) for name in found)
    file = str(ade / 'images' / 'validation' / 'ADE_000.jpg')
    expected = found['ADE_000.png'].astype(int) - 1
    model = init_model(str(tiled), str(checkpoint), device='cpu')
    for given in (file, cv2.imread(file)):
        result = inference_model(model, given)
        assert np.array_equal(result.pred_sem_seg.data[0].numpy(), expected)
    inferencer = MMSegInferencer(model=str(tiled), weights=str(checkpoint), device='cpu')
    result = inferencer(file, return_datasamples=True)
    assert np.array_equal(result.pred_sem_seg.data[0].numpy(), expected)


def test_a_pipeline_that_resizes(evaluate, seg, trained, tmp_path, capsys):
    """Tiles are cut of what comes; the map has the size of the file."""
    _, checkpoint = trained
    options = ('--tile', '32', '--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(96,96)')
    out = tmp_path / 'out'
    evaluate.main([str(seg), str(checkpoint), '--work-dir', str(tmp_path / 'work'), '--out', str(out), *options])
    assert 'the test pipeline resizes pictures (scale=(96, 96))' in capsys.readouterr().err
    assert cv2.imread(str(out / 'ADE_000.png'), -1).shape == (tiny.SIZE, tiny.SIZE)


def test_bad_input(evaluate, fails, trained, det, tmp_path, capsys):
    config, checkpoint = trained
    for options, text in (
        (('--overlap', '8'), '--tile is missing'),
        (('--tile', '32', '--tta'), 'exclude each other'),
        (('--tile', 'x'), 'invalid int value'),
    ):
        with pytest.raises(SystemExit) as error:
            evaluate.main([str(config), str(checkpoint), *options])
        assert error.value.code == 2 and text in capsys.readouterr().err
    work = tmp_path / 'untouched'
    for options, text in (
        (('--tile', '8'), '--tile 8 must be one or two whole numbers of pixels from 16'),
        (('--tile', '32', '32', '32'), '--tile 32 32 32 is not one or two numbers'),
        (('--tile', '32', '--overlap', '20'), '--overlap 20 must be a whole number from 0 to half of the tile, 16'),
    ):
        assert text in fails(evaluate.main, config, checkpoint, '--work-dir', work, *options, status=2)
    tiled = config.with_name('already.py')
    tiled.write_text(
        f"_base_ = './{config.name}'\n"
        "model = dict(_delete_=True, type='mmvim.TiledSegmentor', module={{_base_.model}})\n"
    )
    line = fails(evaluate.main, tiled, checkpoint, '--work-dir', work, '--tile', '32', status=2)
    assert 'works by tiles already' in line
    from mmvim.cli import UserError, build_model, load_config
    from mmvim.cli.evaluation import set_tiles

    cfg = load_config(str(det))
    with pytest.raises(UserError, match='--tile is for segmentors of mmseg, and this is a MaskRCNN'):
        set_tiles(cfg, build_model(cfg), [512], None)
    other = torch.load(checkpoint, weights_only=False)
    del other['state_dict']['decode_head.conv_seg.weight']
    torch.save(other, tmp_path / 'lacking.pth')
    line = fails(evaluate.main, tiled, tmp_path / 'lacking.pth', '--work-dir', work, status=2)
    assert 'lacks 1 weights (decode_head.conv_seg.weight)' in line, 'of the segmentor inside'
    assert not work.exists()
