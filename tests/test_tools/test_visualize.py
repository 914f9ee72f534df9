"""Each picture tool runs on small models, and what it writes has in it what it says."""

import numpy as np
import pytest
import torch
from checkout import ROOT, load_tool
from PIL import Image
from tiny_runs import SIZE

from mmvim.cli.commands.visualize import KINDS, main


@pytest.fixture
def picture(tmp_path):
    """Wider than high; bright above."""
    pixels = np.full((48, 80, 3), 60, np.uint8)
    pixels[:24] = 220
    Image.fromarray(pixels).save(tmp_path / 'picture.png')
    return str(tmp_path / 'picture.png')


@pytest.fixture
def backbone(tmp_path):
    """A config of a backbone alone, and weights for it."""
    from mmvim.models import VMamba

    (tmp_path / 'small.py').write_text(
        "default_scope = 'mmseg'\n"
        "model = dict(type='mmvim.VMamba', arch=dict(depths=(1, 1, 2, 1), dim=8), out_indices=(0, 2, 3))\n"
    )
    torch.manual_seed(1)
    model = VMamba({'depths': (1, 1, 2, 1), 'dim': 8}, out_indices=(0, 2, 3))
    weights = {f'backbone.{name}': value for name, value in model.state_dict().items()}
    torch.save({'state_dict': {**weights, 'decode_head.conv_seg.bias': torch.zeros(3)}}, tmp_path / 'trained.pth')
    return str(tmp_path / 'small.py'), str(tmp_path / 'trained.pth')


def shown(path, least=(300, 200)):
    """Check that a file is a picture with some colour in it, and return its pixels."""
    pixels = np.asarray(Image.open(path).convert('RGB')).astype(int)
    assert pixels.shape[1] >= least[0] and pixels.shape[0] >= least[1]
    assert (np.ptp(pixels, axis=-1) > 40).sum() > 200, 'no colours'
    return pixels


def test_every_kind_has_a_script():
    kinds = {
        path.read_text().partition("main(['")[2].partition("'")[0] for path in (ROOT / 'tools/visualize').glob('*.py')
    }
    assert kinds == set(KINDS)


def test_orders(picture, tmp_path, capsys):
    main(['paths', '--size', '4', '6', '--orders', 'row', 'col', '--out', str(tmp_path / 'two.png')])
    assert capsys.readouterr().out == f'{tmp_path / "two.png"}\n'
    main(['paths', '--size', '4', '6', '--orders', 'row', 'col', '--reverse', '--out', str(tmp_path / 'four.png')])
    assert shown(tmp_path / 'four.png').shape[1] > 1.3 * shown(tmp_path / 'two.png').shape[1]
    main(['paths', '--picture', picture, '--orders', 'hilbert', '--out', str(tmp_path / 'one.png')])
    shown(tmp_path / 'one.png')
    main(['page', '--picture', picture, '--largest', '6', '--out', str(tmp_path / 'page.html')])
    text = (tmp_path / 'page.html').read_text('utf-8')
    assert 'hilbert' in text and 'data:image/jpeg' in text and 'type="range"' in text


def test_fields_before_and_after(backbone, tmp_path):
    config, weights = backbone
    small = ['--size', '32', '48', '--noise', '2']
    main(['field', config, *small, '--out', str(tmp_path / 'one.png')])
    main(['field', config, *small, '--checkpoint', weights, '--out', str(tmp_path / 'two.png')])
    one, two = shown(tmp_path / 'one.png'), shown(tmp_path / 'two.png')
    assert two.shape[0] > one.shape[0] + 100, 'a second row'
    main(['field', config, *small, '--out-indices', '1', '--out', str(tmp_path / 'less.png')])
    assert shown(tmp_path / 'less.png', (200, 200)).shape[1] < one.shape[1] - 150


@pytest.mark.parametrize('kind', ['attention', 'delta'])
def test_scans_of_a_model(kind, backbone, picture, tmp_path):
    config, weights = backbone
    out = tmp_path / f'{kind}.png'
    main([kind, config, '--checkpoint', weights, '--picture', picture, '--out', str(out)])
    three = shown(out, (1000, 600))
    main([kind, config, '--checkpoint', weights, '--picture', picture, '--layers', '-1', '--out', str(out)])
    assert shown(out).shape[0] < 0.6 * three.shape[0], 'one row instead of three'


def test_attention_moves_with_the_pixel(backbone, picture, tmp_path):
    arguments = ['attention', backbone[0], '--picture', picture, '--layers', '0']
    found = []
    for at in (('4', '4'), ('44', '76')):
        main([*arguments, '--at', *at, '--out', str(tmp_path / 'a.png')])
        found.append(shown(tmp_path / 'a.png'))
    assert found[0].shape == found[1].shape and (np.abs(found[0] - found[1]).sum(-1) > 60).sum() > 500


def test_features(backbone, picture, tmp_path):
    config, weights = backbone
    main(['features', config, '--checkpoint', weights, '--picture', picture, '--out', str(tmp_path / 'f.png')])
    shown(tmp_path / 'f.png', (1000, 350))


def test_what_speaks_for_a_class(seg, picture, tmp_path):
    main(['gradcam', str(seg), '--picture', picture, '--size', str(SIZE), str(SIZE), '--out', str(tmp_path / 'c.png')])
    shown(tmp_path / 'c.png', (800, 300))


def test_what_speaks_for_a_class_of_a_published_classifier(picture, tmp_path):
    from mmvim.models import Vim

    arch = {'embed_dims': 192, 'depth': 24}
    weights = Vim(arch, cls_token='middle', final_norm=True).state_dict()
    weights.update({'head.weight': torch.randn(10, 192), 'head.bias': torch.zeros(10)})
    weights.pop('pos_embed_grid')
    torch.save({'model': weights}, tmp_path / 'vim.pth')
    main(['gradcam', str(tmp_path / 'vim.pth'), '--picture', picture, '--label', '3', '--out', str(tmp_path / 'c.png')])
    shown(tmp_path / 'c.png')


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['paths', '--out', 'a.jpg'], '--out a.jpg does not end in .png'),
        (['page', '--out', 'gone/a.html'], 'there is no folder gone'),
        (['paths', '--orders', 'rwo', '--out', 'a.png'], "unknown scan path 'rwo'"),
        (['delta', 'Vim:tiny', '--picture', 'gone.png'], '--picture: picture gone.png'),
        (['delta', 'Vim:small-ish', '--picture', 'PICTURE'], 'small-ish'),
        (['delta', 'Vim:tiny', '--out-indices', '0', '--picture', 'PICTURE', '--layers', '7'], "layer '7'"),
        (['attention', 'Vim:tiny', '--out-indices', '0', '--picture', 'PICTURE', '--at', '48', '0'], 'pixel (48, 0)'),
        (['delta', 'VRWKV:tiny', '--out-indices', '0', '--picture', 'PICTURE'], 'runs no selective scan'),
        (['field', 'Vim:tiny', '--out-indices', '0', '--noise', '0'], '--noise 0'),
        (['features', 'Vim:tiny', '--out-indices', '0', '--picture', 'PICTURE', '--size', '0', '8'], '--size 0 8'),
        (
            ['gradcam', 'a.pth', '--checkpoint', 'b.pth', '--picture', 'PICTURE'],
            '--checkpoint is an option of a config',
        ),
    ],
)
def test_mistakes(arguments, words, fails, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [picture if word == 'PICTURE' else word for word in arguments]
    assert words in fails(main, *arguments, status=2)
    assert not list(tmp_path.glob('*.html'))


def test_a_script_is_the_command(tmp_path, monkeypatch):
    tool = load_tool('visualize/scan_paths.py')
    assert tool.main is main
