"""Small backbones of every family on a GPU: ``pytest -m gpu``."""

import copy

import pytest
import torch
from families import FAMILY_CASES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='PyTorch finds no GPU'),
    pytest.mark.usefixtures('poisoned_memory'),
]


@pytest.fixture
def full_float32(monkeypatch):
    """Convolutions and products of matrices in float32 as such, not in TensorFloat-32."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    monkeypatch.setattr(torch.backends.cuda.matmul, 'allow_tf32', False)


@pytest.fixture(params=FAMILY_CASES)
def small_model(request):
    """A backbone of each family."""
    case = FAMILY_CASES[request.param]
    return case.build(next(iter(case.variants)))


def test_models_on_cpu_and_gpu_agree(small_model, full_float32):
    model = small_model.eval()
    picture = torch.randn(2, 3, 70, 90)
    expected = model(picture)
    found = copy.deepcopy(model).cuda()(picture.cuda())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_models_compile_and_train_under_autocast(small_model, dtype):
    model = small_model.cuda().train()
    compiled = torch.compile(model, fullgraph=True)
    picture = torch.randn(2, 3, 64, 64, device='cuda')
    with torch.autocast('cuda', dtype=dtype):
        loss = sum(y.float().square().mean() for y in compiled(picture))
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_data_parallel_step_under_autocast(small_model, tmp_path):
    """DistributedDataParallel (of one process) with autocast and a gradient scaler: the gradients of the bare model."""
    from torch import distributed

    model = small_model.cuda().train()
    twin = copy.deepcopy(model)
    picture = torch.randn(2, 3, 64, 64, device='cuda')
    backend = 'nccl' if distributed.is_nccl_available() else 'gloo'
    distributed.init_process_group(
        backend, store=distributed.FileStore(str(tmp_path / 'store'), 1), rank=0, world_size=1
    )
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(model, device_ids=[0], find_unused_parameters=True)
        for run, own in ((parallel, model), (twin, twin)):
            torch.manual_seed(1)
            scaler = torch.amp.GradScaler('cuda', init_scale=256.0)
            optimizer = torch.optim.SGD(own.parameters(), lr=0.0)
            with torch.autocast('cuda', dtype=torch.float16):
                loss = sum(y.float().square().mean() for y in run(picture))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            assert scaler.get_scale() == 256.0  # no gradient overflowed
    finally:
        distributed.destroy_process_group()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-3 * b.grad.abs().max().item(), msg=name)
