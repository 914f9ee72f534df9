"""Programs of torch.export against the models that they are made of: any batch, any size, another device."""

import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from checkout import ROOT
from families import FAMILY_CASES
from family_cases.base import randomised
from torch import nn

from mmvim.cli import build_model
from mmvim.deploy import DeployError, export_program, load_program
from mmvim.deploy.compare import picture
from mmvim.deploy.parts import Features

TRACED, OTHERS = (64, 96), ((64, 64), (96, 64), (80, 112))
DETECTORS = (
    'mambavision/mambavision-tiny_mask-rcnn_8xb2-amp-1x_coco.py',
    pytest.param('vim/vim-tiny_vitdet-mask-rcnn_4xb16-amp-lsj-100e_coco.py', marks=pytest.mark.full),
)
QUICK = ('mambavision', 'vim', 'vrwkv')  # whole; of the others the first block or stage, the rest when all tests run
EACH = [pytest.param(name, {}, id=name, marks=() if name in QUICK else pytest.mark.full) for name in FAMILY_CASES] + [
    pytest.param(name, {'out_indices': (0,)}, id=f'{name}_first') for name in FAMILY_CASES if name not in QUICK
]


@pytest.mark.slow
@pytest.mark.parametrize(('family', 'changes'), EACH)
def test_backbones(family, changes, tmp_path):
    model = FAMILY_CASES[family].build_tiny(**changes)
    randomised(model, scale=0.3)  # as first made, a model hardly hears its scans
    exported = export_program(Features(model), tmp_path / 'model.pt2', sizes=(TRACED, *OTHERS))
    assert list(exported.errors) == [TRACED, *OTHERS] and max(exported.errors.values()) < 1e-4
    program = load_program(exported.file)
    model.eval()
    with torch.no_grad():
        for batch, size in ((1, (72, 56)), (3, (72, 56)), (17, (40, 48))):
            x = picture(batch, size)
            for found, expected in zip(program(x), model(x), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        FAMILY_CASES[family].spoil(model)
        wrong = model(x)[-1]
    assert (program(x)[-1] - wrong).abs().max() > 1e-4 * wrong.std()  # the test sees the scan
    moved = load_program(exported.file, 'meta')  # a device that is always there, and has no data of others
    for found, expected in zip(moved(x.to('meta')), model(x), strict=True):
        assert found.device.type == 'meta' and found.shape == expected.shape


@pytest.mark.slow
@pytest.mark.parametrize('file', DETECTORS)
def test_the_backbone_of_a_detector(file, load, tmp_path):
    """As its config builds it, with the detector's own neck behind the program."""
    pytest.importorskip('mmdet', reason='mmdet is not installed')
    pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators, which detectors need')
    import small_detectors

    cfg = load(file)
    small_detectors.narrow(cfg.model, shallow=True)
    detector = build_model(cfg).eval()
    randomised(detector.backbone, scale=0.3)
    exported = export_program(Features(detector.backbone), tmp_path / 'model.pt2', sizes=(TRACED, *OTHERS))
    program = load_program(exported.file)
    for batch, size in ((1, (72, 56)), (3, (96, 128)), (2, (65, 99))):
        x = picture(batch, size)
        with torch.no_grad():
            found, expected = program(x), detector.backbone(x)
            pairs = [*zip(found, expected, strict=True)]
            pairs += zip(detector.neck(found), detector.extract_feat(x), strict=True)
        assert len(pairs) > len(expected)
        for a, b in pairs:
            assert a.shape == b.shape and (a - b).abs().max() < 1e-4 * b.std()


class Tiny(nn.Module):
    """One convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image):
        return self.conv(image)


def test_a_fixed_size(tmp_path):
    exported = export_program(Tiny(), tmp_path / 'model.pt2', sizes=((16, 24), (24, 16)), dynamic=False)
    assert list(exported.errors) == [(16, 24)]
    program = load_program(exported.file)
    assert program(picture(1, (16, 24))).shape == (1, 4, 16, 24)
    with pytest.raises(AssertionError, match='Guard failed'):
        program(picture(2, (16, 24)))


def test_metadata(tmp_path):
    export_program(Tiny(), tmp_path / 'model.pt2', sizes=((16, 24),), metadata={'mmvim.task': 'features'})
    extra = {'mmvim.task': ''}
    torch.export.load(tmp_path / 'model.pt2', extra_files=extra)
    assert extra == {'mmvim.task': 'features'}


def test_a_program_names_no_folder_of_the_machine(tmp_path):
    export_program(Tiny(), tmp_path / 'model.pt2', sizes=((16, 24),))
    with zipfile.ZipFile(tmp_path / 'model.pt2') as archive:
        content = b''.join(archive.read(name) for name in archive.namelist())
    assert b'avg_pool' in content or b'conv' in content  # members are read
    for folder in (ROOT, tmp_path, sys.prefix):
        assert os.fsencode(str(folder)) not in content


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'sizes': ()}, r'sizes \[\] are no heights and widths; give pairs of positive numbers'),
        ({'sizes': ((0, 8),)}, r'sizes \[\(0, 8\)\] are no heights and widths'),
        ({'file': 'model.onnx'}, r'model\.onnx does not end in \.pt2; give a name that does'),
        ({'file': 'missing/model.pt2'}, r'missing is no writable folder; make it, or name another'),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    arguments = {'file': 'model.pt2', 'sizes': ((16, 24),), **arguments}
    file = tmp_path / arguments.pop('file')
    with pytest.raises(DeployError, match=message):
        export_program(Tiny(), file, **arguments)
    assert list(tmp_path.iterdir()) == []


class Drifting(Tiny):
    """Its program and itself differ: a call more is a constant more."""

    def forward(self, image):
        self.conv.bias.data += 1
        return super().forward(image).detach() + self.conv.bias.detach().sum().item()


def test_what_cannot_be_traced_is_not_written(tmp_path):
    with pytest.raises(DeployError, match='the model cannot be traced'):
        export_program(Drifting(), tmp_path / 'model.pt2', sizes=((16, 24),))
    assert list(tmp_path.iterdir()) == []


def test_what_differs_is_not_written(tmp_path):
    with pytest.raises(DeployError, match=r'differs from the original by .*, more than -1e\+00'):
        export_program(Tiny(), tmp_path / 'model.pt2', sizes=((16, 24),), tolerance=-1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('content', [None, b'', b'PK\x03\x04 no archive'])
def test_files_that_are_no_programs(content, tmp_path):
    file = tmp_path / 'model.pt2'
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DeployError, match='is no file; name one that' if content is None else 'is no exported program'):
        load_program(file)


def test_a_program_keeps_no_weights_of_the_models(tmp_path):
    model = Tiny()
    export_program(model, tmp_path / 'model.pt2', sizes=((16, 24),))
    x = picture(1, (16, 24))
    before = model(x)
    nn.init.zeros_(model.conv.weight)
    np.testing.assert_allclose(load_program(tmp_path / 'model.pt2')(x).detach(), before.detach(), rtol=1e-5, atol=1e-6)


WITHOUT_OPENMMLAB = """
import sys
for name in ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain'):
    sys.modules[name] = None  # importing it fails
import torch
from mmvim.deploy import load_program
print(tuple(load_program(sys.argv[1])(torch.zeros(2, 3, 8, 12)).shape))
"""


@pytest.mark.slow
def test_a_program_is_loaded_without_openmmlab(tmp_path):
    export_program(Tiny(), tmp_path / 'model.pt2', sizes=((16, 24),))
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
    command = [sys.executable, '-c', WITHOUT_OPENMMLAB, str(tmp_path / 'model.pt2')]
    done = subprocess.run(command, env={**os.environ, 'PYTHONPATH': path}, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, '(2, 4, 8, 12)'), done.stderr
