"""The other operators in ONNX against their definitions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('onnxscript', reason='the extra "export" is not installed')

import onnx_ir as ir
from onnx_graphs import as_model, run, value

from mmvim.deploy.aten import adaptive_average_pool, floor_divide, remainder
from mmvim.deploy.builder import Builder
from mmvim.deploy.conv_silu import conv_silu
from mmvim.deploy.translate import translations
from mmvim.deploy.wkv import WKVGraph
from mmvim.ops.bi_wkv.reference import bi_wkv_reference
from mmvim.ops.conv_silu.reference import conv_silu_reference


@pytest.mark.parametrize('left', [[2], [3, 0], [1, 1], [0, 3, 2]], ids=str)
@pytest.mark.parametrize('bias', [True, False], ids=['bias', 'bare'])
def test_short_convolution(left, bias):
    torch.manual_seed(0)
    tensors = {'x': torch.randn(2, 7, 5), 'weight': torch.randn(len(left), 5, 4)}
    if bias:
        tensors['bias'] = torch.randn(len(left), 5)
    graph = Builder('conv')
    inputs = [value(name, x, (0, 1) if name == 'x' else ()) for name, x in tensors.items()]
    out = conv_silu(graph, inputs[0], inputs[1], inputs[2] if bias else None, left)
    found = run(as_model(graph, inputs, [(out, 4)]), **{name: x.numpy() for name, x in tensors.items()})[0]
    expected = conv_silu_reference(tensors['x'], tensors['weight'], tensors.get('bias'), left)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope='module', params=[False, True], ids=['exact', 'published'])
def wkv(request):
    """A model of the bidirectional WKV, and whether it is the published one."""
    graph, vector, tokens = Builder('wkv'), torch.zeros(3), torch.zeros(1, 1, 3)
    inputs = [value('decay', vector), value('bonus', vector), value('k', tokens, (0, 1)), value('v', tokens, (0, 1))]
    out = WKVGraph(graph, *inputs, request.param).run(ir.DataType.FLOAT)
    return as_model(graph, inputs, [(out, 3)]), request.param


@pytest.mark.parametrize('length', [1, 2, 31, 33, 70, 200])
@pytest.mark.parametrize('scale', [1, -1, 8])
def test_bidirectional_wkv(wkv, length, scale):
    model, published = wkv
    torch.manual_seed(length)
    decay, bonus = torch.rand(3) * scale / length, torch.randn(3)
    k, v = torch.randn(2, 2, length, 3) * 2
    found = run(model, decay=decay.numpy(), bonus=bonus.numpy(), k=k.numpy(), v=v.numpy())[0]
    expected = bi_wkv_reference(decay.double(), bonus.double(), k.double(), v.double(), published)
    assert np.abs(found - expected.numpy()).max() < 1e-5


def test_bidirectional_wkv_far_from_overflow(wkv):
    model, published = wkv
    k, v = torch.randn(2, 1, 40, 3)
    k = k * 100
    decay, bonus = torch.full((3,), 0.2), torch.zeros(3)
    found = run(model, decay=decay.numpy(), bonus=bonus.numpy(), k=k.numpy(), v=v.numpy())[0]
    expected = bi_wkv_reference(decay.double(), bonus.double(), k.double(), v.double(), published)
    assert np.abs(found - expected.numpy()).max() < 1e-4


@pytest.mark.parametrize('cells', [(1, 1), (2, 2), (3, 3), (6, 6), (4, 2)], ids=str)
@pytest.mark.parametrize('size', [(6, 6), (7, 5), (3, 16)], ids=str)
def test_adaptive_pool(cells, size):
    graph, x = Builder('pool'), torch.randn(2, 3, *size)
    image = value('x', x, (0, 2, 3))
    out = adaptive_average_pool(graph, image, cells)
    found = run(as_model(graph, [image], [(out, 4)]), x=x.numpy())[0]
    torch.testing.assert_close(torch.from_numpy(found), F.adaptive_avg_pool2d(x, cells), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('divisor', [3, -3, 'size'])
@pytest.mark.parametrize('dtype', [torch.int64, torch.float32], ids=str)
def test_remainder(divisor, dtype):
    graph, x = Builder('remainder'), torch.arange(-7, 8).to(dtype)
    inputs, feed, number = [value('x', x, (0,))], {'x': x.numpy()}, divisor
    if divisor == 'size':
        inputs.append(value('size', torch.tensor(4)))
        feed['size'], number = np.array(4), 4
    out = remainder(graph, inputs[0], inputs[1] if divisor == 'size' else divisor)
    found = run(as_model(graph, inputs, [(out, 1)]), **feed)[0]
    assert found.tolist() == torch.remainder(x, number).tolist()


@pytest.mark.parametrize('divisor', [3, -3])
def test_floor_division(divisor):
    graph, x = Builder('floor'), torch.arange(-7, 8)
    inputs = [value('x', x, (0,))]
    found = run(as_model(graph, inputs, [(floor_divide(graph, inputs[0], divisor), 1)]), x=x.numpy())[0]
    assert found.tolist() == [n // divisor for n in x.tolist()]


def test_every_operator_has_its_translation():
    """Those of mmvim that a model calls in inference; norms are PyTorch's on CPUs, where models are exported."""
    forward = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith('mmvim::') and '_fwd' in name}
    named = {op.name() for op in translations() if isinstance(op, torch._ops.OpOverload)}
    assert forward - {'mmvim::rms_norm_fwd'} <= named
