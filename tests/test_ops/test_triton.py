"""The Triton backend where there is no GPU: its kernels interpreted, and what it says when it cannot run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emulated import EVERY

from mmvim.ops import backends, selective_scan
from mmvim.ops.selective_scan.operators import BACKENDS
from mmvim.ops.triton_host import device

FOLDER = Path(__file__).parent
# Files of tests for the interpreter, and which of their tests, as ``-k`` says: of the operators' those of what each
# backend does by itself, of the partial paths' some of each kind. An ordinary run leaves out what is marked ``full``.
INTERPRETED = {
    'interpreted_triton.py': '',
    'interpreted_tiles.py': '',
    'interpreted_fused.py': '',
    'interpreted_models.py': '',
    'test_bi_wkv.py': '(gradients and far) or (overflows and 40.0- and 300) or half or strided or any_size',
    'test_operators.py': 'opcheck or alike or size_that or last_state or double_backward',
    'test_partial_paths.py': 'against or not_read or padding_moves or chained or (tensors and sum and window2)',
}
needs_triton = pytest.mark.skipif(not device.installed(), reason='Triton is not installed')


def chosen(tests):
    """Which tests of which files, in the words of ``-k``."""
    return ' or '.join(f'({file} and ({words}))' if words else file for file, words in tests.items())


def run_apart(tests, environment, *options):
    """Run tests in a process of its own, because they ask on import which backends there are; return what it prints."""
    quiet = ('-q', '-x', '-W', 'ignore', '-p', 'no:cacheprovider', '--rootdir', FOLDER)
    command = [sys.executable, '-m', 'pytest', *quiet, *options]
    result = subprocess.run(
        [*command, *(FOLDER / file for file in tests), '-k', chosen(tests), *(() if EVERY else ('-m', 'not full'))],
        env={**os.environ, **environment},
        text=True,
        capture_output=True,
        check=False,
        timeout=None if EVERY else 840,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow
@needs_triton
def test_interpreted(tmp_path):
    """Triton decides on import whether it interprets."""
    probe = (
        'import triton, triton.language as tl, torch\n'
        '@triton.jit\ndef f(x, n):\n    for i in range(0, n):\n        tl.store(x + i, i)\n'
        'x = torch.zeros(3); f[(1,)](x, 3); assert x[2] == 2'
    )
    environment = {'TRITON_INTERPRET': '1'}
    (tmp_path / 'probe.py').write_text(probe)
    found = subprocess.run(
        [sys.executable, tmp_path / 'probe.py'], env={**os.environ, **environment}, capture_output=True, check=False
    )
    if found.returncode:
        pytest.skip("this Triton's interpreter does not run with this NumPy")
    run_apart(INTERPRETED, environment)


@pytest.mark.slow
def test_importing_mmvim_does_not_import_triton():
    code = (
        'import sys; import mmvim.ops; from mmvim.ops import backends; backends(); '
        "kernels = (*(f'{op}.kernels' for op in ('bi_wkv', 'conv_silu', 'rms_norm')), "
        "*(f'selective_scan.triton.{part}' for part in ('forward', 'backward', 'segments', 'reduce', 'tiles'))); "
        "assert not [name for name in kernels if f'mmvim.ops.{name}' in sys.modules]; "
        "import importlib.util; assert all(importlib.util.find_spec(f'mmvim.ops.{name}') for name in kernels)"
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_missing_triton_is_told(monkeypatch):
    monkeypatch.setattr(device, 'installed', lambda: False)
    usable, reason = backends()['triton']
    assert not usable and 'pip install triton' in reason
    inputs = torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(2, 1), torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)
    with pytest.raises(ValueError, match='pip install triton'):
        selective_scan(*inputs, backend='triton')
    assert BACKENDS.select(None, 'cuda') == 'torch'


@needs_triton
def test_tensors_on_the_cpu_are_refused():
    inputs = torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(2, 1), torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)
    with pytest.raises(ValueError, match=r'PyTorch finds no GPU|cannot reach tensors on cpu'):
        selective_scan(*inputs, backend='triton')


@needs_triton
def test_chosen_for_gpus(monkeypatch):
    monkeypatch.delenv('MMVIM_SCAN_BACKEND', raising=False)
    assert BACKENDS.select(None, 'cuda') == BACKENDS.select('auto', 'xpu') == 'triton'
    assert BACKENDS.select(None, 'cpu') != 'triton'
