"""Five bands from end to end: train from weights for three, log the validation loss, evaluate, draw."""

import json
import shutil

import cv2
import demo_models as models
import numpy as np
import pytest
import tiny_runs as tiny
import torch
from checkout import load_tool

from mmvim.analysis.overlay import OverlayPainter
from mmvim.cli import UserError
from mmvim.cli.commands import app, demo
from mmvim.datasets.bands import as_rgb
from mmvim.models import Vim
from scenes import DemoSceneParams, write_demo_scenes

ARCH = {'embed_dims': 16, 'depth': 2, 'd_state': 4}


@pytest.fixture(scope='module')
def bands(tmp_path_factory):
    root = tmp_path_factory.mktemp('bands') / 'demo'
    write_demo_scenes(root, DemoSceneParams(train=4, val=2, size=(64, 96), bands=5))
    return root


@pytest.fixture
def config(bands, tmp_path):
    """The demo's config of five bands, made small."""
    path = tmp_path / f'bands_{tmp_path.name}.py'
    path.write_text(f"""
_base_ = __import__('mmvim').bases('mmvim::demo/upernet_vim_bands_demo.py')
root = {str(bands / 'ADEChallengeData2016')!r}
train_dataloader = dict(batch_size=2, dataset=dict(data_root=root))
val_dataloader = dict(batch_size=2, dataset=dict(data_root=root))
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=(64, 96)),
    backbone=dict(arch=dict(_delete_=True, **{ARCH!r}), img_size=(64, 96), out_indices=(0, 1)),
    neck=None,
    decode_head=dict(_delete_=True, type='FCNHead', in_channels=16, in_index=1, channels=8, num_convs=1,
        concat_input=False, num_classes=14, norm_cfg=dict(type='BN'), loss_decode=dict(type='CrossEntropyLoss')))
train_cfg = dict(max_iters=4, val_interval=2)
param_scheduler = []
default_hooks = dict(checkpoint=dict(interval=4), logger=dict(interval=1))
""")
    return path


@pytest.mark.slow
def test_five_bands_from_weights_for_three(train, evaluate, config, tmp_path, capsys):
    torch.manual_seed(0)
    three = Vim(ARCH, img_size=(64, 96), patch_size=8, out_indices=(0, 1))
    torch.save({'model': three.state_dict()}, tmp_path / 'three.pth')
    start = f"""
_base_ = './{config.name}'
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint={str(tmp_path / 'three.pth')!r})))
"""
    refused = tmp_path / f'refused_{tmp_path.name}.py'
    refused.write_text(start)
    with pytest.raises(UserError, match=r"3 channels.*in_channels=5; .*channel_change='repeat', 'mean' or 'zero'"):
        train.main([str(refused), '--work-dir', str(tmp_path / 'refused')])
    assert not (tmp_path / 'refused').exists()

    repeated = tmp_path / f'repeated_{tmp_path.name}.py'
    repeated.write_text(start.replace("'Pretrained',", "'Pretrained', channel_change='repeat',"))
    named = ['--cfg-options', f'visualizer.name=train_{tmp_path.name}']  # one of its own, which writes here
    train.main([str(repeated), '--work-dir', str(tmp_path / 'work'), *named])
    [log] = (tmp_path / 'work').glob('*/*.log')
    assert 'patch_embed.proj.weight: 3 to 5 channels (repeat)' in log.read_text()
    [scalars] = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in scalars.read_text().splitlines()]
    found = [row for row in rows if 'val_loss' in row]
    assert [row['step'] for row in found] == [2, 4] and all(0 < row['val_loss'] < 10 for row in found)
    saved = torch.load(tmp_path / 'work' / 'iter_4.pth', weights_only=False)
    assert saved['state_dict']['backbone.patch_embed.proj.weight'].shape[1] == 5

    evaluate.main(
        [str(config), str(tmp_path / 'work' / 'iter_4.pth'), '--work-dir', str(tmp_path / 'test')]
        + ['--show-dir', str(tmp_path / 'drawn'), '--cfg-options', f'visualizer.name={tmp_path.name}']
    )
    drawn = sorted((tmp_path / 'drawn').rglob('*.png'))
    assert len(drawn) == 2
    assert cv2.imread(str(drawn[0])).shape == (64, 192, 3), 'truth and prediction beside each other'


@pytest.fixture
def weights(config, tmp_path):
    return models.save_weights(config, tmp_path / 'weights.pth', {'classes': [f'class {n}' for n in range(14)]})


@pytest.fixture
def picture(bands):
    return bands / 'ADEChallengeData2016/bands/validation/ADE_val_00000001.npy'


@pytest.mark.slow
def test_the_demo_on_files_of_five_bands(config, weights, picture, tmp_path, capsys):
    """What is drawn on is what the config or --bands says, and what is predicted is what the model says of all five."""
    values = np.load(picture)
    assert values.shape == (64, 96, 5) and values.dtype == np.uint16
    given = [picture, tmp_path / 'field.tif']
    pytest.importorskip('tifffile').imwrite(given[1], values, photometric='minisblack', planarconfig='contig')
    for more, shown in (([], (3, 0, 1)), (['--bands', '4', '4', '2'], (4, 4, 2))):
        out = tmp_path / f'out{len(more)}'
        demo.main([*map(str, (config, weights, *given)), '--out', str(out), '--opacity', '0', *more])
        expected = as_rgb(values, shown).repeat(4, 0).repeat(4, 1)
        for file in given:
            drawn = cv2.imread(str(out / f'{file.stem}.png'))[:256, :384, ::-1]
            assert np.array_equal(drawn, expected), (file, shown)
    capsys.readouterr()
    cfg = models.load(config)
    painter = OverlayPainter(cfg, str(weights))
    found = painter(painter.loader.read(str(picture)))
    inputs = torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)
    from mmseg.structures import SegDataSample

    meta = {'ori_shape': (64, 96), 'img_shape': (64, 96)}
    (result,) = painter.model.test_step({'inputs': [inputs], 'data_samples': [SegDataSample(metainfo=meta)]})
    assert np.array_equal(found.labels, result.pred_sem_seg.data[0].numpy())
    assert painter.channels == 5 and sum(one.share for one in found.found) == pytest.approx(1)
    with pytest.raises(ValueError, match=r'must be \(H, W, 5\), got \(8, 8, 3\)'):
        painter(np.zeros((8, 8, 3), np.float32))


@pytest.mark.slow
def test_mistakes_of_the_demo_and_the_app(config, weights, picture, tmp_path, fails, capsys):
    np.save(tmp_path / 'four.npy', np.load(picture)[..., :4])
    line = fails(demo.main, config, weights, tmp_path / 'four.npy', '--out', tmp_path / 'out', status=2)
    assert 'four.npy has 4 bands, and the model takes 5' in line
    demo.main([*map(str, (config, weights, picture, tmp_path / 'four.npy')), '--out', str(tmp_path / 'out')])
    words = capsys.readouterr()
    assert 'four.npy has 4 bands, and the model takes 5; left out' in words.err and '1 drawn' in words.out
    line = fails(demo.main, config, weights, picture, '--bands', '0', '1', '5', status=2)
    assert 'has 5 bands, 0 to 4, and band 5 is to be drawn' in line
    (tmp_path / 'drive.mp4').write_text('a video')
    line = fails(demo.main, config, weights, tmp_path / 'drive.mp4', status=2)
    assert 'drive.mp4 has frames of three colours, and the model loads bands' in line
    line = fails(app.main, config, weights, status=2)
    assert 'loads bands (mmvim.LoadImageBands), and the page takes pictures of three colours; use mmvim demo' in line


@pytest.mark.slow
def test_a_file_of_other_bands_ends_the_training_with_its_name(train, config, bands, tmp_path, fails, monkeypatch):
    root = tmp_path / 'data'
    shutil.copytree(bands / 'ADEChallengeData2016', root)
    other = sorted((root / 'bands' / 'training').iterdir())[1]
    np.save(other, np.load(other)[..., :4])
    own = tmp_path / f'own_{tmp_path.name}.py'
    loaders = (f'{stage}_dataloader = dict(dataset=dict(data_root={str(root)!r}))' for stage in ('train', 'val'))
    own.write_text('\n'.join([f"_base_ = './{config.name}'", f'visualizer = dict(name={own.stem!r})', *loaders]))
    line = fails(train.main, own, '--work-dir', tmp_path / 'work', status=2)
    assert f'{other} has 4 bands, and model.data_preprocessor has mean and std for 5; give it 4' in line
    monkeypatch.setattr('mmvim.cli.commands.train.check_samples', lambda *args, **options: [])  # as of many others
    line = fails(train.main, own, '--work-dir', tmp_path / 'work', status=1)
    assert f'a picture of 4 bands ({other}) comes to a data_preprocessor with 5 means; give mean and std' in line
    values = np.load(sorted((root / 'bands' / 'training').iterdir())[0]).astype(np.float32)
    values[3, 4, 2] = np.nan
    np.save(other, values)
    line = fails(train.main, own, '--work-dir', tmp_path / 'none', status=1)
    assert f'{other} has 1 values that are no numbers (NaN or infinity); give fill' in line


def test_flops_and_the_first_step(config, capsys):
    load_tool('analysis_tools/get_flops.py').main([str(config), '--shape', '64', '96'])
    assert 'backbone' in capsys.readouterr().out


@pytest.mark.full
def test_a_detector_of_five_bands(train, evaluate, coco, tmp_path):
    """Boxes and masks on arrays of 16 bits, drawn in three bands."""
    root = tmp_path / 'coco'
    (root / 'images').mkdir(parents=True)
    content = json.loads((coco / 'instances.json').read_text())
    for image in content['images']:
        colours = cv2.imread(str(coco / 'images' / image['file_name']))
        image['file_name'] = image['file_name'].replace('.jpg', '.npy')
        five = np.concatenate([colours, colours[..., :2]], 2).astype(np.uint16) * 16
        np.save(root / 'images' / image['file_name'], five)
    (root / 'instances.json').write_text(json.dumps(content))
    base = tiny.det_config(tmp_path / f'det_{tmp_path.name}.py', root)
    text = base.read_text().replace("dict(type='LoadImageFromFile')", "dict(type='mmvim.LoadImageBands')")
    base.write_text(
        text.replace('_delete_=True, type=', '_delete_=True, in_channels=5, type=').replace(
            'model = dict(\n',
            "default_hooks = dict(visualization=dict(_delete_=True, type='mmvim.BandsVisualizationHook', "
            'bands=(4, 1, 0)))\n'
            "model = dict(\n    data_preprocessor=dict(_delete_=True, type='mmvim.DetBandsPreprocessor', "
            'mean=[1500] * 5, std=[900] * 5, pad_mask=True, pad_size_divisor=32),\n',
            1,
        )
    )
    samples = load_tool('analysis_tools/draw_samples.py')
    for more in ([], ['--bands', '4', '3', '0']):
        drawn = tmp_path / f'samples{len(more)}'
        samples.main([str(base), '--out', str(drawn), '--count', '2', '--repeat', '2', *more])
        assert cv2.imread(str(drawn / 'samples.png')).shape[2] == 3
    with pytest.raises(UserError, match='--bands 0 1 5: the pictures have 5 bands, 0 to 4'):
        samples.main([str(base), '--out', str(tmp_path / 'none'), '--bands', '0', '1', '5'])
    assert not (tmp_path / 'none').exists()
    train.main([str(base), '--work-dir', str(tmp_path / 'work')])
    evaluate.main(
        [str(base), str(tmp_path / 'work' / 'epoch_1.pth'), '--work-dir', str(tmp_path / 'test'), '--show-dir', 'drawn']
    )
    drawn = sorted((tmp_path / 'test').rglob('drawn/*.png'))
    assert len(drawn) == 3 and cv2.imread(str(drawn[0])).ndim == 3
    file = next((root / 'images').glob('*.npy'))
    demo.main(
        [str(base), str(tmp_path / 'work' / 'epoch_1.pth'), str(file), '--out', str(tmp_path / 'demo')]
        + ['--score-thr', '1']
    )
    side = tiny.SIZE * 5  # enlarged to be drawn on
    expected = as_rgb(np.load(file), (4, 1, 0)).repeat(5, 0).repeat(5, 1)
    assert np.array_equal(cv2.imread(str(tmp_path / 'demo' / f'{file.stem}.png'))[:side, :side, ::-1], expected)


@pytest.mark.full
def test_exported_and_run(config, bands, tmp_path, capsys):
    """As a file of its own, which reads arrays; what it says is what the model says."""
    pytest.importorskip('onnxscript')
    from mmvim.cli import build_model, load_config
    from mmvim.deploy.predict import Predictor, read_picture

    export, predict = load_tool('deployment/export_onnx.py'), load_tool('deployment/predict_onnx.py')
    file, picture = tmp_path / 'bands.onnx', bands / 'ADEChallengeData2016/bands/validation/ADE_val_00000001.npy'
    cfg = load_config(str(config))
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'weights.pth')
    export.main([str(config), '--out', str(file), '--checkpoint', str(tmp_path / 'weights.pth')])
    predict.main([str(file), str(picture), '--out', str(tmp_path / 'out')])
    found = Predictor(file)(read_picture(picture)).labels
    data = {'inputs': [torch.from_numpy(np.load(picture).astype(np.float32).transpose(2, 0, 1))]}
    with torch.no_grad():
        logits = model(model.data_preprocessor(data)['inputs'], mode='tensor')
    logits = torch.nn.functional.interpolate(logits, found.shape, mode='bilinear')
    assert (found == logits.argmax(1)[0].numpy()).mean() > 0.99
    assert np.array_equal(cv2.imread(str(tmp_path / 'out' / 'ADE_val_00000001.png'), -1), found)
    with pytest.raises(ValueError, match=r'must be \(H, W, 5\), got \(8, 8, 3\)'):
        Predictor(file)(np.zeros((8, 8, 3), np.uint8))
