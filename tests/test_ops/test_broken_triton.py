"""A GPU on which Triton is installed and cannot run: the ops fall back with one warning, a named backend says why.

The CPU stands for the GPU here: Triton's own launcher and compiler run until they meet what is broken.
"""

import subprocess
import warnings

import pytest
import torch

from mmvim.ops import backends, bi_wkv, selective_scan
from mmvim.ops.backends import ENV, Backends
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.rms_norm import add_rms_norm
from mmvim.ops.triton_host import device, probe

triton = pytest.importorskip('triton', reason='Triton is not installed')
pytestmark = pytest.mark.skipif(device.interpreting(), reason='an interpreter needs no launcher')


def scan(backend=None):
    u, b = torch.ones(1, 2, 3), torch.ones(1, 1, 4, 3)
    return selective_scan(u, u, -torch.ones(2, 4), b, b, backend=backend)


def convolution(backend=None):
    return conv1d_silu(torch.ones(1, 3, 2), torch.ones(1, 2, 2), None, left=[1], backend=backend)


def norm(backend=None):
    return add_rms_norm(torch.ones(1, 4), torch.ones(1, 4), torch.ones(4), backend=backend)[0]


def wkv(backend=None):
    return bi_wkv(torch.ones(2), torch.ones(2), torch.ones(1, 3, 2), torch.ones(1, 3, 2), backend=backend)


OPS = pytest.mark.parametrize('op', [scan, convolution, norm, wkv])


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """The CPU passes for a GPU that has no other default than Triton; nothing has been tried yet."""
    caches = (probe.version_problem, probe._launch, probe._any_device, probe.warn_once)
    monkeypatch.setattr(device, 'DEVICES', ('cpu',))
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.delenv(ENV, raising=False)
    for op in Backends._ops.values():
        monkeypatch.delitem(op._found, 'native', raising=False)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


class Driver:
    """A driver of Triton that builds its helper before it answers, as NVIDIA's does."""

    def __getattr__(self, name):
        from triton.runtime.build import compile_module_from_src

        compile_module_from_src('#include <Python.h>\nint broken;', 'mmvim_probe')
        raise RuntimeError('the helper was built')


@pytest.fixture
def driver(gpu, monkeypatch):
    """Triton's driver is that."""
    monkeypatch.setattr(triton.runtime.driver, '_active', Driver())


def falls_back(op, reason: str, monkeypatch) -> None:
    """Check the one warning, the result, the answer to a named backend and to the environment variable."""
    expected = op('torch')
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        assert torch.equal(op(), expected)
    assert len(caught) == 1 and "'torch' runs instead" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(op(), expected), 'it warns once'
    with pytest.raises(ValueError, match=f"backend 'triton'.* cannot run here: .*{reason}"):
        op('triton')
    monkeypatch.setenv(ENV, 'triton')
    with pytest.raises(ValueError, match=reason):
        op()
    monkeypatch.setenv(ENV, 'torch')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(op(), expected)


@OPS
def test_no_driver(op, gpu, monkeypatch):
    """Triton finds no GPU that it knows: its real answer on a machine without one."""
    falls_back(op, 'cannot launch a kernel on cpu.* active drivers', monkeypatch)


@OPS
def test_no_compiler(op, driver, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.delenv('CC', raising=False)
    falls_back(op, 'Failed to find C compiler', monkeypatch)


@OPS
def test_no_python_headers(op, driver, monkeypatch, tmp_path):
    compiler = tmp_path / 'cc'
    compiler.write_text('#!/bin/sh\necho "fatal error: Python.h: No such file or directory" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CC', str(compiler))
    with pytest.raises(subprocess.CalledProcessError):
        Driver().anything()
    falls_back(op, 'CalledProcessError', monkeypatch)


@OPS
def test_a_cache_that_cannot_be_written(op, driver, monkeypatch, tmp_path):
    """A file where the folder should be: even the superuser cannot write there."""
    (tmp_path / 'file').touch()
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path / 'file' / 'cache'))
    falls_back(op, r'(NotADirectory|Permission)Error', monkeypatch)


@pytest.mark.parametrize(
    'message',
    [
        "ptxas fatal   : Value 'sm_999' is not defined",
        'libcuda.so cannot found!',
        'Triton only supports CUDA 10.0 or higher',
    ],
)
def test_whatever_the_launch_raises(gpu, monkeypatch, message):
    """An unknown architecture, one below Triton's floor, a broken libcuda."""

    class Broken:
        def __getattr__(self, name):
            raise AssertionError(f'{message}\nand more lines')

    monkeypatch.setattr(triton.runtime.driver, '_active', Broken())
    falls_back(scan, f'AssertionError: {message[:20]}', monkeypatch)


@OPS
def test_a_triton_that_is_too_old(op, gpu, monkeypatch):
    monkeypatch.setattr(probe, 'installed_version', lambda: '3.2.0')
    assert backends()['triton'] == (False, probe.version_problem())
    falls_back(op, r'Triton 3\.2\.0 is too old.* install 3\.3', monkeypatch)


@pytest.mark.parametrize(
    ('version', 'old'), [('3.3.0', False), ('3.2.9', True), ('3.10.1+git12', False), ('2.3.1', True), ('', False)]
)
def test_versions(gpu, monkeypatch, version, old):
    monkeypatch.setattr(probe, 'installed_version', lambda: version)
    assert bool(probe.version_problem()) == old


def test_a_kernel_that_computes_nonsense(gpu, monkeypatch):
    from mmvim.ops.triton_host import kernels

    class Silent:
        def __getitem__(self, grid):
            return lambda **arguments: None

    monkeypatch.setattr(kernels, 'add_one', Silent())
    falls_back(scan, 'adds 1 to 0 gave 0.0', monkeypatch)


def test_tried_once_where_it_works(gpu, monkeypatch):
    from mmvim.ops.triton_host import kernels

    launches = []

    class Working:
        def __getitem__(self, grid):
            def run(number_ptr, **options):
                launches.append(grid)
                number_ptr.add_(1)

            return run

    monkeypatch.setattr(kernels, 'add_one', Working())
    with torch._subclasses.FakeTensorMode():  # as in an export: the probe itself has real memory
        assert device.default_for('cpu')
    assert device.default_for('cpu') and device.why_not('cpu') is None and launches == [(1,)]
