"""Whole models in ONNX Runtime against themselves, at sizes other than that of the trace."""

import re

import numpy as np
import pytest
import torch
from families import FAMILY_CASES
from family_cases.base import randomised
from torch import nn

pytest.importorskip('onnxscript', reason='the extra "export" is not installed')

import onnx

from mmvim.deploy import DeployError, export_onnx
from mmvim.deploy.compare import picture, session
from mmvim.deploy.parts import Features
from mmvim.models import ViTAdapter
from mmvim.ops import scan_paths, selective_scan_paths

TRACED, OTHERS = (64, 96), ((64, 64), (96, 64), (80, 112))


@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILY_CASES)
def test_backbones(family, tmp_path):
    model = randomised(FAMILY_CASES[family].build_tiny(), scale=0.3)  # as first made, a model hardly hears its scans
    exported = export_onnx(Features(model), tmp_path / 'model.onnx', sizes=(TRACED, *OTHERS))
    assert list(exported.errors) == [TRACED, *OTHERS] and max(exported.errors.values()) < 1e-4
    assert exported.size == (tmp_path / 'model.onnx').stat().st_size > 1000
    written = onnx.load(exported.file)
    assert {node.domain for node in written.graph.node} == {''}  # standard operators alone
    assert any(node.op_type == 'Scan' for node in written.graph.node)
    (image,) = written.graph.input
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ['batch', 3, 'height', 'width']
    FAMILY_CASES[family].spoil(model)
    running = session(exported.file)
    x = picture(3, (72, 56))
    with torch.no_grad():
        wrong = model.eval()(x)[-1].numpy()
    found = running.run(None, {'image': x.numpy()})[-1]
    assert found.shape == wrong.shape and np.abs(found - wrong).max() > 1e-4 * wrong.std()  # the test sees the scan


def variants():
    for family, case in FAMILY_CASES.items():
        yield from ((family, variant) for variant in case.variants)


@pytest.mark.full
@pytest.mark.parametrize(('family', 'variant'), list(variants()))
def test_variants(family, variant, tmp_path):
    model = Features(FAMILY_CASES[family].build(variant))
    exported = export_onnx(model, tmp_path / 'model.onnx', sizes=((64, 96), (96, 64), (80, 112)))
    assert max(exported.errors.values()) < 1e-4


@pytest.mark.full
@pytest.mark.parametrize('plain', ['PlainMamba', 'VRWKV'])
def test_adapters(plain, tmp_path):
    arch = {'PlainMamba': {'embed_dims': 16, 'depth': 4}, 'VRWKV': {'embed_dims': 16, 'depth': 4}}[plain]
    backbone = {'type': f'mmvim.{plain}', 'arch': arch}
    model = ViTAdapter(backbone, groups=((0, 3),), num_heads=2, fuse='last', extra_extractors=0, conv_dims=8)
    exported = export_onnx(Features(randomised(model)), tmp_path / 'model.onnx', sizes=((64, 96), (96, 64), (80, 112)))
    assert max(exported.errors.values()) < 1e-4


@pytest.mark.full
@pytest.mark.parametrize('opset', [18, 19, 20, 21, 22, 23])
def test_opsets(opset, tmp_path):
    exported = export_onnx(Tiny(), tmp_path / 'model.onnx', sizes=((16, 24), (24, 16)), opset=opset)
    written = onnx.load(exported.file)
    assert [entry.version for entry in written.opset_import if entry.domain == ''] == [opset]


class Tiny(nn.Module):
    """One convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image):
        return self.conv(image)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'opset': 9}, 'opset 9 is not supported; give one of 18 to 23'),
        ({'opset': 99}, 'opset 99 is not supported; give one of 18 to 23'),
        ({'chunk': 0}, 'chunk 0 is not positive; give a number of steps, such as 16'),
        ({'sizes': ()}, r'sizes \[\] are no heights and widths; give pairs of positive numbers'),
        ({'sizes': ((0, 8),)}, r'sizes \[\(0, 8\)\] are no heights and widths'),
        ({'file': 'model.pt'}, 'model.pt does not end in .onnx; give a name that does'),
        ({'file': 'gone/model.onnx'}, 'gone is no writable folder; make it, or name another'),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    given = {'file': 'model.onnx', 'sizes': ((16, 16),), **arguments}
    with pytest.raises(DeployError, match=message):
        export_onnx(Tiny(), tmp_path / given.pop('file'), **given)
    assert list(tmp_path.iterdir()) == []


def test_what_differs_is_not_written(tmp_path, monkeypatch):
    class Random(Tiny):
        def forward(self, image):
            return self.conv(image) + (0 if torch.compiler.is_exporting() else 1e-2)

    (tmp_path / 'model.onnx').write_text('the one before')
    with pytest.raises(DeployError, match=r'differs from the original by .* at 16 x 16, more than 1e-04; give'):
        export_onnx(Random(), tmp_path / 'model.onnx', sizes=((16, 16),))
    assert [path.read_text() for path in tmp_path.iterdir()] == ['the one before']


def test_an_operator_without_translation(tmp_path):
    class Sorted(Tiny):
        def forward(self, image):
            return torch.special.airy_ai(self.conv(image))

    with pytest.raises(DeployError, match=r'cannot be written in ONNX: .*special_airy_ai'):
        export_onnx(Sorted(), tmp_path / 'model.onnx', sizes=((16, 16),))
    assert list(tmp_path.iterdir()) == []


class Hilbert(nn.Module):
    """A scan along an order that is made in Python."""

    def forward(self, image):
        u = image.flatten(2)  # (B, 3, L)
        A, delta, B = -torch.ones(3, 2), torch.full_like(u, 0.1), torch.ones_like(u[:, :2])
        return selective_scan_paths(u, delta, A, B, B, paths=scan_paths('hilbert', *image.shape[2:]))


def test_an_order_that_cannot_be_traced(tmp_path):
    with pytest.raises(DeployError) as error:
        export_onnx(Hilbert(), tmp_path / 'model.onnx', sizes=((8, 12),))
    text = str(error.value)
    assert '\n' not in text and "scan order 'hilbert'" in text and '--fixed-size' in text
    assert list(tmp_path.iterdir()) == []
    exported = export_onnx(Hilbert(), tmp_path / 'model.onnx', sizes=((8, 12), (12, 8)), dynamic=False)
    assert list(exported.errors) == [(8, 12)]


def test_metadata_and_names(tmp_path):
    words = {'mmvim.task': 'features', 'x': 'ä'}
    export_onnx(Tiny(), tmp_path / 'a.onnx', sizes=((16, 24),), outputs=['scores'], metadata=words)
    written = onnx.load(tmp_path / 'a.onnx')
    assert {entry.key: entry.value for entry in written.metadata_props} == words
    assert [x.name for x in written.graph.output] == ['scores']
    text = (tmp_path / 'a.onnx').read_bytes()
    assert b'/site-packages/' not in text and re.search(rb'File "', text) is None  # nothing of the machine


@pytest.mark.parametrize('missing', ['onnx', 'onnxscript', 'onnxruntime'])
def test_a_missing_extra(missing, tmp_path, monkeypatch):
    from mmvim.deploy import errors

    found = errors.find_spec
    monkeypatch.setattr(errors, 'find_spec', lambda name: None if name == missing else found(name))
    with pytest.raises(DeployError, match=rf'^{missing} is not installed; pip install "mmvim\[export\]"$'):
        export_onnx(Tiny(), tmp_path / 'model.onnx', sizes=((16, 16),))
