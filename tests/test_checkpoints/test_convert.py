"""Publisher to mmvim to publisher is the identity on every tensor."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from families import FAMILY_CASES, each
from family_cases.base import randomised
from family_cases.mambavision import SMALL_MAMBAVISION, published_mambavision
from family_cases.vim import SMALL_VIM, published_vim, vim_segmentation
from published_files import ALL

from mmvim import checkpoints
from mmvim.models import Vim

HEADS = {
    'backbone': (),
    'segmentor': ('decode_head.conv_seg.weight', 'auxiliary_head.conv_seg.weight'),
    'detector': ('neck.lateral_convs.0.conv.weight', 'rpn_head.rpn_conv.weight', 'roi_head.bbox_head.0.fc_cls.weight'),
}
FILES = [*each('files'), *((family, kind) for family in FAMILY_CASES for kind in HEADS)]


def dense_model(case, kind):
    """A model of MMSegmentation or MMDetection around a backbone, or the bare backbone."""
    heads = HEADS[kind]
    weights = OrderedDict(randomised(case.backbone(case.file_arch)).state_dict(prefix='backbone.' if heads else ''))
    for i, name in enumerate(heads):
        weights[name] = torch.arange(6.0).reshape(2, 3) + i
    return weights


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.covering(1)
@pytest.mark.parametrize('container', [c for c in ALL if c != 'safetensors'])
@pytest.mark.parametrize(('family', 'file'), FILES)
def test_round_trip(family, file, container, write, tmp_path):
    case = FAMILY_CASES[family]
    arch, kind = case.file_arch, file if file in HEADS else case.files[file].kind
    path = write(dense_model(case, file) if file in HEADS else case.files[file].weights(), container)
    key = 'model_ema' if container == 'model_ema' else None
    there, back, again = (str(tmp_path / name) for name in ('there.pth', 'back.pth', 'again.pth'))
    converted, found = checkpoints.to_mmvim(path, arch=arch, key=key)
    assert found.kind == kind
    checkpoints.save_file(converted, there)
    checkpoints.save_file(checkpoints.from_mmvim(there), back)
    original, returned = checkpoints.load_file(path), checkpoints.load_file(back)
    assert same(original.get(found.key, original), returned.get(found.key, returned))
    checkpoints.save_file(checkpoints.to_mmvim(back, arch=arch, key=key)[0], again)
    assert Path(there).read_bytes() == Path(again).read_bytes(), 'to the byte'
    assert all(
        name.startswith(('backbone.', 'neck.', 'head.fc.', 'decode_head.', 'auxiliary_head.', 'rpn_head.', 'roi_head.'))
        for name in converted['state_dict']
    )


def test_a_converted_file_is_a_plain_checkpoint(write, tmp_path):
    """It loads like the original, and without mmvim's reader."""
    weights = published_vim()
    path = write(weights)
    checkpoints.save_file(checkpoints.to_mmvim(path, arch=SMALL_VIM)[0], tmp_path / 'plain.pth')
    plain = torch.load(tmp_path / 'plain.pth', weights_only=True)['state_dict']
    model = Vim(SMALL_VIM, cls_token='middle', final_norm=True)
    model.load_state_dict({k[9:]: v for k, v in plain.items() if k.startswith('backbone.')}, strict=True)
    backbones = [
        Vim(SMALL_VIM, img_size=96, init_cfg={'type': 'Pretrained', 'checkpoint': str(f)})
        for f in (path, tmp_path / 'plain.pth')
    ]
    for backbone in backbones:
        backbone.init_weights()
    assert same(backbones[0].state_dict(), backbones[1].state_dict())
    found = checkpoints.read(str(tmp_path / 'plain.pth'), arch=SMALL_VIM)
    assert found.kind == 'classifier' and same(found.state_dict, plain)


def test_a_converted_pyramid_is_a_neck(write, tmp_path):
    published = checkpoints.read(write(vim_segmentation()), arch=SMALL_VIM)
    checkpoints.save_file(checkpoints.to_mmvim(write(vim_segmentation()), arch=SMALL_VIM)[0], tmp_path / 'plain.pth')
    plain = checkpoints.read(str(tmp_path / 'plain.pth'), arch=SMALL_VIM)
    assert plain.neck == published.neck and plain.neck['type'] == 'Feature2Pyramid'
    assert plain.backbone == published.backbone and plain.state_dict.keys() == published.state_dict.keys()


def test_what_cannot_go_back(write, tmp_path):
    converted, _ = checkpoints.to_mmvim(write(published_vim()), arch=SMALL_VIM, task='dense')
    checkpoints.save_file(converted, tmp_path / 'dense.pth')
    with pytest.raises(checkpoints.CheckpointError, match=r'does not have all .* were resized'):
        checkpoints.from_mmvim(str(tmp_path / 'dense.pth'))
    torch.save({'state_dict': converted['state_dict']}, tmp_path / 'own.pth')
    with pytest.raises(checkpoints.CheckpointError, match='say what it is'):
        checkpoints.from_mmvim(str(tmp_path / 'own.pth'))
    named = checkpoints.from_mmvim(str(tmp_path / 'own.pth'), 'vim', 'backbone')['state_dict']
    records = {'backbone.pos_embed_grid'}  # which the publisher's files do not have
    assert named.keys() == {name.removeprefix('backbone.') for name in converted['state_dict'].keys() - records}
    with pytest.raises(checkpoints.CheckpointError, match='cannot be written'):
        checkpoints.save_file(converted, tmp_path / 'nowhere' / 'x.pth')
    assert not [f for f in tmp_path.iterdir() if f.name.endswith('.part')]


def test_views_do_not_drag_their_storage_along(write, tmp_path):
    weights = published_mambavision()
    big = torch.randn(1000, *weights['head.weight'].shape)
    weights['head.weight'] = big[3]
    converted, _ = checkpoints.to_mmvim(write(weights), arch=SMALL_MAMBAVISION)
    checkpoints.save_file(converted, tmp_path / 'plain.pth')
    assert (tmp_path / 'plain.pth').stat().st_size < big.numel() * 4


def full_disk(content, stream):
    """What PyTorch says of one."""
    stream.write(b'PK')
    raise RuntimeError('unexpected pos 64\nvs 0')


def test_outputs_that_cannot_be(write, tmp_path, monkeypatch):
    content = {'state_dict': published_vim()}
    for path, match in (
        ('', "'' is not a name"),
        (tmp_path, 'is a folder'),
        (f'{tmp_path}/', 'is a folder'),
        (tmp_path / 'none' / 'x.pth', 'there is no folder .*none'),
    ):
        with pytest.raises(checkpoints.CheckpointError, match=match):
            checkpoints.save_file(content, str(path))
    monkeypatch.setattr('torch.save', full_disk)
    with pytest.raises(checkpoints.CheckpointError, match=r'cannot be written .unexpected pos 64 vs 0.; make'):
        checkpoints.save_file(content, str(tmp_path / 'x.pth'))
    monkeypatch.setattr('os.access', lambda path, mode: False)  # root may write anywhere
    with pytest.raises(checkpoints.CheckpointError, match='no permission for'):
        checkpoints.save_file(content, str(tmp_path / 'x.pth'))
    assert list(tmp_path.iterdir()) == []


def test_a_file_converted_onto_itself(write):
    """Weights are mapped from the file that is replaced; they stay whole."""
    weights = published_vim()
    path = write(weights)
    checkpoints.save_file(checkpoints.to_mmvim(path, arch=SMALL_VIM)[0], path)
    checkpoints.save_file(checkpoints.from_mmvim(path), path)
    assert same(checkpoints.load_file(path)['model'], weights)


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (lambda c: c.update(meta='x'), 'was not converted'),
        (lambda c: c['meta'].update(published='x'), 'does not fully say'),
        (lambda c: c['meta']['published'].pop('reversible'), 'does not fully say'),
        (lambda c: c['meta']['published'].update(family='resnet'), 'does not fully say'),
        (lambda c: c['meta']['published'].update(order=[1, 2]), 'does not fully say'),
        (lambda c: c['meta']['published'].update(prefix=None), 'does not fully say'),
        (lambda c: c['meta']['published']['order'].pop(), r'changed after .* 1 tensors came or went \(head.bias\)'),
        (lambda c: c['state_dict'].pop('backbone.cls_token'), r'changed after .*\(cls_token\)'),
        (lambda c: c['state_dict'].update({'backbone.more': torch.zeros(1)}), r'changed after .*\(more\)'),
        (lambda c: c['state_dict']['backbone.norm_f.weight'].fill_(torch.nan), 'NaN or infinity'),
        (lambda c: c.update(left_out=3), 'no weights under key=.left_out'),
    ],
)
def test_converted_files_that_were_changed(change, match, write, tmp_path):
    converted, _ = checkpoints.to_mmvim(write(published_vim()), arch=SMALL_VIM)
    change(converted)
    torch.save(converted, tmp_path / 'changed.pth')
    with pytest.raises(checkpoints.CheckpointError, match=match):
        checkpoints.from_mmvim(str(tmp_path / 'changed.pth'))


def test_what_the_user_says_must_be_true(write, tmp_path):
    converted, _ = checkpoints.to_mmvim(write(published_vim()), arch=SMALL_VIM)
    there, own, other = (str(tmp_path / name) for name in ('there.pth', 'own.pth', 'other.pth'))
    checkpoints.save_file(converted, there)
    torch.save({'state_dict': converted['state_dict']}, own)
    torch.save({'state_dict': {'conv1.weight': torch.zeros(3)}}, other)
    for file, family, kind, match in (
        (there, 'mambavision', None, 'is of family vim, not mambavision'),
        (there, None, 'segmentor', 'is of kind classifier, not segmentor'),
        (own, 'mambavision', 'classifier', 'a backbone of vim, not one of mambavision'),
        (own, 'vim', 'detector', "is a classifier, not a detector; give kind='classifier'"),
        (write(published_vim()), 'vim', 'classifier', "lies under '', not 'backbone.'"),
        (other, 'vim', 'classifier', 'no backbone that is known here'),
    ):
        with pytest.raises(checkpoints.CheckpointError, match=match):
            checkpoints.from_mmvim(file, family, kind)
    named = checkpoints.from_mmvim(own, 'vim', 'classifier')['state_dict']
    assert same(named, published_vim())
