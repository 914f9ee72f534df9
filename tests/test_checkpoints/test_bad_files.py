"""Each kind of bad file is one clear error; nothing is loaded and no code runs."""

import bz2
import gzip
import lzma
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from family_cases.base import randomised
from family_cases.mambavision import SMALL_MAMBAVISION
from family_cases.vim import SMALL_VIM

from mmvim import checkpoints
from mmvim.checkpoints import CheckpointError
from mmvim.models import MambaVision, Vim


class Evil:
    """Its pickle leaves a trace when it is unpickled by a loader that runs code."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), 'w')


@pytest.fixture
def refused(tmp_path):
    """Load into a backbone by `init_cfg` and by `read`; both must refuse in the same words and change nothing."""

    def call(path, match, backbone=None, reads=True, **options):
        backbone = backbone or Vim(SMALL_VIM)
        backbone.init_cfg = {'type': 'Pretrained', 'checkpoint': str(path), **options}
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        with pytest.raises(CheckpointError, match=match) as found:
            backbone.init_weights()
        assert '\n' not in str(found.value) and '; ' in str(found.value), 'one line, with a remedy'
        assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
        if reads:
            with pytest.raises(CheckpointError, match=match):
                checkpoints.read(str(path), **options)

    return call


@pytest.fixture
def weights():
    """The tensors of a published classifier, which has no record of its grid."""
    weights = OrderedDict(randomised(Vim(SMALL_VIM, cls_token='middle', final_norm=True)).state_dict())
    del weights['pos_embed_grid']
    return weights


def test_files_that_are_none(tmp_path, refused, weights, write):
    path = tmp_path / 'file.pth'
    refused(path, 'does not exist')
    refused(tmp_path, 'is a folder with no checkpoint')
    content = Path(write(weights)).read_bytes()
    pages = b'<!DOCTYPE html><html><body>404', b'\n  <html lang="en">Sign in', b'<?xml version="1.0"?><Error>'
    for data, match in (
        (b'', 'is not a checkpoint'),
        *((page, 'is a web page') for page in pages),
        (b'version https://git-lfs.github.com/spec/v1\noid', 'a pointer to one.*git lfs pull'),
        (content[: len(content) // 2], 'is truncated'),
        (content[:-20], 'is truncated|is damaged'),
        (b'\x80\x02}q\x00X\x03', 'is damaged'),
        (b'\x10\0\0\0\0\0\0\0{"a": 1}       ', 'is damaged|pip'),
    ):
        path.write_bytes(data)
        refused(path, match)
    damaged = bytearray(content)
    damaged[60:200] = bytes(140)
    path.write_bytes(damaged)
    refused(path, 'is damaged|not plain weights')


def test_archives_and_programs(tmp_path, refused, weights, write):
    """What a browser, a packer or an exporter made of a checkpoint is named as what it is."""
    file = Path(write(weights))
    packed = tmp_path / 'packed'
    for kind, open_packed in (('gzip', gzip.open), ('bzip2', bz2.open), ('xz', lzma.open)):
        with open_packed(packed, 'wb') as stream:
            stream.write(file.read_bytes())
        refused(packed, f'is an? {kind} archive .*; unpack it')
    with tarfile.open(packed, 'w') as archive:
        archive.add(file, 'x.pth')
    refused(packed, 'is a tar archive .*; unpack it')
    with zipfile.ZipFile(packed, 'w') as archive:
        archive.write(file, 'x.pth')
    refused(packed, 'is a zip archive of x.pth, not a checkpoint; unpack it')
    with zipfile.ZipFile(packed, 'w'):
        pass
    refused(packed, 'is not a checkpoint|is a zip archive of nothing')
    with zipfile.ZipFile(packed, 'w') as archive:
        archive.writestr('archive/data.pkl', b'garbage')
        archive.writestr('archive/version', '3')
    refused(packed, 'is damaged')
    with zipfile.ZipFile(packed, 'w') as archive:
        for name in ('data.pkl', 'constants.pkl', 'code/__torch__.py'):
            archive.writestr(f'archive/{name}', b'')
    refused(packed, 'is a TorchScript program')


def test_paths_that_are_no_files(tmp_path, refused):
    os.mkfifo(tmp_path / 'pipe')
    refused(tmp_path / 'pipe', 'is not a regular file')  # and nobody waits for its other end
    refused('a\0b', 'does not exist')
    refused('x' * 5000, 'cannot be read .File name too long')
    with pytest.raises(CheckpointError, match=r"^'' does not exist"):
        checkpoints.load_file('')


def test_tensors_that_are_no_plain_weights(refused, weights, write):
    """Each would be copied wrongly or halfway, or not at all."""
    name = 'layers.1.mixer.x_proj.weight'
    plain = weights[name]
    odd = {'complex': plain.to(torch.complex64), 'sparse_coo': plain.to_sparse(), 'without data': plain.to('meta')}
    for kind, tensor in odd.items():
        refused(write({**weights, name: tensor}), rf'1 tensors that are not plain weights \({name}: {kind}\)')
    refused(
        write({**weights, name: plain.to(torch.int8)}),
        rf'of another shape or kind \({name}: int8 in the file, float32 in the model\)',
        reads=False,
    )
    with pytest.raises(CheckpointError, match=rf'backbone.{name}: int8 in the file'):
        checkpoints.read(write({**weights, name: plain.to(torch.int8)}), arch=SMALL_VIM)
    not_a_number = {**weights, name: torch.full_like(plain, torch.nan).to(torch.float8_e5m2)}
    refused(write(not_a_number), 'NaN or infinity in 1 of')


def test_numbers_out_of_nothing(refused, weights, write):
    """A few bytes that claim to be a trillion numbers are refused before they are looked at one by one."""
    for name in ('layers.0.mixer.A_log', 'something'):
        claimed = torch.zeros(1).expand(10**6, 10**6)
        refused(write({**weights, name: claimed}), rf'not plain weights \({name}: expanded')


def test_numbers_too_large_for_a_weight(refused, weights, write):
    huge = torch.full((16,), 1e300, dtype=torch.float64)
    refused(write({**weights, 'norm_f.weight': huge}), 'NaN or infinity in 1 ')


def test_output_norms_of_no_level(refused, write):
    weights = MambaVision(SMALL_MAMBAVISION).state_dict()
    for name in ('outnorm.weight', 'outnorm_x.weight', 'outnorm12.weight'):
        refused(
            write({**weights, name: torch.zeros(8)}),
            f'belong nowhere.*{name}',
            MambaVision(SMALL_MAMBAVISION),
            reads=False,
        )


def test_shapes_of_no_model(refused, weights, write):
    """Tensors that carry the sizes of a model, with too many or too few axes."""
    for name, tensor in (
        ('layers.0.mixer.A_log', torch.zeros(32)),
        ('layers.0.mixer.A_log', torch.zeros(32, 4, 1)),
        ('patch_embed.proj.weight', torch.zeros(3)),
        ('layers.0.mixer.conv1d.weight', torch.zeros(1)),
    ):
        refused(write({**weights, name: tensor}), 'a Vim of another size', reads=False)
        with pytest.raises(CheckpointError, match='is not Vim arch='):
            checkpoints.read(write({**weights, name: tensor}), arch=SMALL_VIM)
    for tensor in (torch.zeros(()), torch.zeros(1, 3, 1)):
        refused(write({**weights, 'pos_embed': tensor}), 'does not fill a square grid', reads=False)


def test_heads_of_no_classifier(weights, write):
    head = {'head.weight': torch.zeros(7, 16), 'head.bias': torch.zeros(7)}
    assert checkpoints.read(write({**weights, **head}), arch=SMALL_VIM).head['num_classes'] == 7
    for name, tensor in (
        ('weight', torch.zeros(7)),
        ('weight', torch.zeros(7, 9)),
        ('weight', torch.zeros(8, 16)),
        ('bias', torch.zeros(())),
    ):
        with pytest.raises(CheckpointError, match=r'of another shape or kind .head\.fc\.'):
            checkpoints.read(write({**weights, **head, f'head.{name}': tensor}), arch=SMALL_VIM)


def test_truncated_safetensors(refused, weights, write, tmp_path):
    file = write(weights, 'safetensors')
    content = Path(file).read_bytes()
    (tmp_path / 'half').write_bytes(content[: len(content) // 2])
    refused(tmp_path / 'half', 'is damaged')


def test_file_without_permission(tmp_path, refused, weights, write, monkeypatch):
    file = write(weights)

    def denied(*args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr('mmvim.checkpoints.files.header.open', denied, raising=False)
    refused(file, 'cannot be read .Permission denied.')


def test_read_only_file(tmp_path, weights, write):
    """Weights are copied out of a file that nobody may write, in a folder that nobody may write."""
    file = write(weights)
    os.chmod(file, 0o444)
    backbone = Vim(SMALL_VIM, init_cfg={'type': 'Pretrained', 'checkpoint': file})
    before = Path(file).read_bytes()
    backbone.init_weights()
    with torch.no_grad():
        for value in backbone.parameters():
            value.add_(1.0)
    assert Path(file).read_bytes() == before


@pytest.mark.parametrize('legacy', [False, True])
def test_no_code_is_run(tmp_path, refused, weights, legacy):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'trace'
    torch.save({'model': weights, 'args': Evil(trace)}, path, _use_new_zipfile_serialization=not legacy)
    refused(path, 'holds a .*open.*, which is not plain weights; nothing of it was run|not plain weights')
    assert not trace.exists()
    path.write_bytes(pickle.dumps({'model': Evil(trace)}))
    refused(path, 'is damaged|not plain weights')
    assert not trace.exists()


@pytest.mark.slow
def test_the_trace_works(tmp_path, weights):
    """The control: a loader that runs code leaves the trace that the test above does not find."""
    path, trace = tmp_path / 'evil.pth', tmp_path / 'trace'
    torch.save({'model': weights, 'args': Evil(trace)}, path)
    subprocess.run([sys.executable, '-c', f'import torch; torch.load({str(path)!r}, weights_only=False)'], check=True)
    assert trace.exists()


def test_contents_that_are_no_weights(tmp_path, refused):
    path = tmp_path / 'file.pth'
    for content, match in (
        ([1, 2], 'holds a list'),
        ({'epoch': 3}, 'has no state_dict'),
        ({'state_dict': {}}, 'has no state_dict'),
        (torch.zeros(2), 'holds a Tensor'),
        ({'model_ema': {'w': torch.zeros(1)}}, "key='model_ema' if those are meant"),
        ({'model': {'resnet.w': torch.zeros(1)}}, 'holds no backbone of'),
    ):
        torch.save(content, path)
        refused(path, match)
    torch.save({'model': {'w': torch.zeros(1)}}, path)
    refused(path, "no weights under key='model_ema'.*under \\['model'\\]", key='model_ema')


def test_not_a_number(tmp_path, refused, weights, write):
    weights['layers.1.mixer.x_proj.weight'] = torch.full_like(weights['layers.1.mixer.x_proj.weight'], torch.nan)
    refused(write(weights), r'NaN or infinity in 1 of its \d+ tensors \(layers.1.mixer.x_proj.weight\)')


def test_half_of_the_keys(refused, weights, write):
    half = OrderedDict(list(weights.items())[::2])
    refused(write(half), 'lacks|of another size|holds no backbone', reads=False)
    whole_layer_gone = OrderedDict((k, v) for k, v in weights.items() if not k.startswith('layers.1.'))
    refused(write(whole_layer_gone), r'another size: depth=1, and this Vim has depth=2', reads=False)
    with pytest.raises(CheckpointError, match='depth=1'):
        checkpoints.read(write(whole_layer_gone), arch=SMALL_VIM)
    for name in ('layers.1.mixer.D_b', 'patch_embed.proj.bias', 'pos_embed'):
        some = OrderedDict((k, v) for k, v in weights.items() if k != name)
        refused(write(some), f'lacks 1 weights .{name}', reads=False)
        with pytest.raises(CheckpointError, match=f'lacks 1 weights .backbone.{name}'):
            checkpoints.read(write(some), arch=SMALL_VIM)
    refused(write(whole_layer_gone), 'depth=1', strict=False, reads=False)


def test_wrong_arch_and_family(refused, weights, write, tensors):
    file = write(weights)
    refused(
        file,
        r'another size: embed_dims=16, .*depth=2.*and this Vim has embed_dims=32',
        reads=False,
        backbone=Vim({'embed_dims': 32, 'depth': 3}),
    )
    refused(
        file,
        'is a backbone of Vim, and this backbone is a MambaVision',
        reads=False,
        backbone=MambaVision(SMALL_MAMBAVISION),
    )
    with pytest.raises(CheckpointError, match=r'of no published size .embed_dims=16, depth=2.* are tiny, small'):
        checkpoints.read(file)
    with pytest.raises(CheckpointError, match=r"arch='small'.*embed_dims=192.*; it is arch='tiny'"):
        checkpoints.read(write(tensors('vim_tiny_cls')), arch='small')
    refused(write(tensors('vim_tiny_cls')), "set arch='tiny'", reads=False)
    with pytest.raises(CheckpointError, match="arch='huge' is not one of"):
        checkpoints.read(file, arch='huge')
    with pytest.raises(CheckpointError, match=r"cannot be built with these options: .*feature='wave'"):
        checkpoints.read(file, feature='wave')


def test_segmentors_without_their_output_norms(refused, write):
    """A classifier never had them; a segmentor has lost them."""
    weights = MambaVision(SMALL_MAMBAVISION).state_dict()
    bare = OrderedDict((f'backbone.{k}', v) for k, v in weights.items() if not k.startswith('outnorm'))
    backbone = MambaVision(SMALL_MAMBAVISION)
    assert len(checkpoints.load_backbone(backbone, write(bare)).fresh) == 8
    bare['decode_head.conv_seg.weight'] = torch.zeros(2, 2, 1, 1)
    refused(write(bare), 'lacks 8 weights .outnorm0.weight', backbone, reads=False)
    with pytest.raises(CheckpointError, match=r'lacks 8 weights .backbone.outnorm0.weight'):
        checkpoints.read(write(bare), arch=SMALL_MAMBAVISION)
    assert len(checkpoints.load_backbone(backbone, write(bare), strict=False).missing) == 8


def test_two_of_one_name(write, weights):
    """Each tensor of the file is accounted for, also where two would be of one name here."""
    own = OrderedDict((f'backbone.{k}', v) for k, v in weights.items())
    more = {'backbone.fpn1.0.weight': torch.zeros(1), 'decode_head.x': torch.zeros(1)}
    path = write({**own, **more, 'neck.upsample_4x.0.weight': torch.ones(1)})
    with pytest.raises(CheckpointError, match=r'1 that belong nowhere .neck.upsample_4x.0.weight'):
        checkpoints.read(path, arch=SMALL_VIM)
    with pytest.raises(CheckpointError, match=r'two tensors for neck.upsample_4x.0.weight'):
        checkpoints.read_for_model(path)
    head = {'head.weight': torch.zeros(7, 16), 'head.bias': torch.zeros(7)}
    both = checkpoints.read(write({**weights, **head, 'fpn1.0.weight': torch.zeros(1)}), arch=SMALL_VIM)
    with pytest.raises(CheckpointError, match=r'has neck.upsample_4x.0.weight beside its head, not part of a class'):
        checkpoints.build_classifier(both)
    path = write({'module.a': torch.zeros(1), 'a': torch.ones(1), 'module.b': torch.ones(1)})
    assert checkpoints.read_for_model(path)[0]['state_dict'].keys() == {'module.a', 'a', 'b'}


def test_left_over(refused, weights, write):
    weights['layers.0.mixer.surprise'] = torch.zeros(3)
    file = write(weights)
    refused(file, 'has 1 that belong nowhere .layers.0.mixer.surprise', reads=False)
    backbone = Vim(SMALL_VIM)
    report = checkpoints.load_backbone(backbone, file, strict=False)
    assert report.unexpected == ['layers.0.mixer.surprise']
    assert torch.equal(backbone.layers[0].mixer.D, weights['layers.0.mixer.D'])


def test_two_backbones(refused, weights, write):
    both = OrderedDict((f'{p}.{k}', v) for p in ('encoder', 'module') for k, v in weights.items())
    refused(write(both), "holds 2 backbones.*choose: prefix='encoder.'")
    other = OrderedDict((f'teacher.{k}', v) for k, v in weights.items())
    refused(write(other), 'holds no backbone')
    backbone = Vim(SMALL_VIM, init_cfg={'type': 'Pretrained', 'checkpoint': write(other), 'prefix': 'teacher'})
    backbone.init_weights()
    assert torch.equal(backbone.layers[0].mixer.D, weights['layers.0.mixer.D'])


def test_unknown_options(weights, write):
    with pytest.raises(CheckpointError, match=r"Vim has no option 'compta'; its options are cls_token, compat, grid, "):
        Vim(SMALL_VIM, init_cfg={'type': 'Pretrained', 'checkpoint': 'x', 'compta': 1}).init_weights()
    with pytest.raises(CheckpointError, match="no option 'compat'"):
        MambaVision(
            SMALL_MAMBAVISION,
            init_cfg={
                'type': 'Pretrained',
                'compat': 'upstream',
                'checkpoint': write(MambaVision(SMALL_MAMBAVISION).state_dict()),
            },
        ).init_weights()
    with pytest.raises(CheckpointError, match=r"Vim has no option 'window_sizes'.*cls_token, compat"):
        checkpoints.read(write(weights), arch=SMALL_VIM, window_sizes=(1, 2, 3, 4))


@pytest.mark.parametrize(
    ('option', 'value', 'match'),
    [
        ('grid', (14,), 'grid=.14,. is not 2 positive ints'),
        ('grid', 14, 'grid=14 is not 2'),
        ('grid', 'square', "grid='square' is not 2"),
        ('stride', '16', "stride='16' is not a positive int"),
        ('stride', -3, 'stride=-3 is not a positive int'),
        ('img_size', 'large', 'a positive int or 2 positive ints'),
        ('img_size', (0, 64), 'img_size=.0, 64. is not'),
        ('arch', 3, 'arch=3 is neither a name nor a dict'),
        ('arch', {'width': 3}, "unknown .'width'.; published are tiny"),
        ('key', 3, 'key=3 is not a string'),
        # What a command line makes of rope=no is a text, and would be true.
        ('rope', 'no', "rope='no' is not one of None, True, False"),
        ('rope_residual', 1, 'rope_residual=1 is not one of'),
        ('compat', 'timm', "compat='timm' is not one of None, 'upstream'"),
        ('cls_token', 'tail', "'middle', 'head'"),
        ('patch_change', 'crop', "patch_change='crop' is not one of 'refuse', 'resample'"),
    ],
)
def test_options_of_the_wrong_kind(option, value, match, weights, write):
    with pytest.raises(CheckpointError, match=match):
        checkpoints.read(write(weights), **{'arch': SMALL_VIM, option: value})


@pytest.mark.parametrize('value', [3, (8, 8, 4), (8, 8, 0, 2), 'all'])
def test_windows_of_the_wrong_kind(value, write):
    file = write(MambaVision(SMALL_MAMBAVISION).state_dict())
    with pytest.raises(CheckpointError, match=r'window_sizes=.* is not 4 positive ints; omit it'):
        checkpoints.read(file, arch=SMALL_MAMBAVISION, window_sizes=value)
