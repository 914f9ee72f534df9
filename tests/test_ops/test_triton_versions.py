"""The kernels compile with the oldest and the newest Triton that mmvim takes; those of the newest are emulated, too.

They are not interpreted: the interpreter of 3.3 fails with NumPy 2.4, and that of 3.9 takes no mask from a comparison
of numbers.

Both are downloaded, once, to a folder outside of the repository: ``mmvim-tests`` in ``$XDG_CACHE_HOME`` or
``~/.cache``. The PyTorch that is here need not know them: nothing but mmvim's kernels meets them.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from test_triton import FOLDER, run_apart
from triton_resources import Specialisation

from mmvim.ops.triton_host import probe

pytestmark = [pytest.mark.full, pytest.mark.slow]
CACHE = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmvim-tests'
OLDEST = '.'.join(map(str, probe.OLDEST))
# Every kernel, its tuples of states or, of many, its memory for them; segments, index maps, padding, a gate.
COMPILED = [
    Specialisation(*x)
    for x in (
        ('vim', 16, 'float16', 1024, 90),
        ('vim', 24, 'float32', 1024, 80),
        ('cross', 1, 'bfloat16', 1024, 90),
        ('gated', 8, 'float32', 196, 100),
        ('windows', 16, 'float16', 1024, 90),
        ('in steps', 8, 'float16', 1024, 80),
        ('many maps', 1, 'float16', 1024, 90),
        ('conv of Vim', 0, 'float16', 1024, 90),
        ('norm', 384, 'bfloat16', 1024, 80),
        ('wkv exact', 384, 'float16', 1024, 90),
        ('wkv published', 384, 'float32', 1024, 90),
    )
]
COMPILE = """
import json, sys
from triton_resources import Specialisation, brief, faults, measure
import triton
found = {}
for wanted in json.load(sys.stdin):
    taken = measure(Specialisation(*wanted))
    found[str(Specialisation(*wanted))] = [brief(taken), faults(taken)]
print(json.dumps([triton.__version__, triton.__file__, found]))
"""
EMULATED = {'interpreted_triton.py': 'equal_bits or extremes', 'interpreted_fused.py': 'stream or convolution'}


def pip(*arguments):
    """What pip prints; the test is skipped where it finds nothing, as without a network."""
    command = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--quiet', '--disable-pip-version-check']
    result = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f'pip cannot install {arguments[-1]} here: {result.stderr.strip().splitlines()[-1:]}')
    return result.stdout


@pytest.fixture(scope='module', params=[f'triton=={OLDEST}', 'triton'], ids=['oldest', 'newest'])
def version(request):
    """A version of Triton and the folder that it lies in."""
    report = json.loads(pip('--dry-run', '--ignore-installed', '--report', '-', request.param))
    name = report['install'][0]['metadata']['version']
    folder = CACHE / f'triton-{name}-{sys.implementation.cache_tag}'
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            pip('--target', Path(temporary) / 'whole', f'triton=={name}')
            (Path(temporary) / 'whole').rename(folder)
    return name, folder


@pytest.fixture
def environment(version, tmp_path):
    """In which that Triton is found first, and compiles anew."""
    paths = [version[1], FOLDER.parents[1], FOLDER.parent, FOLDER, os.environ.get('PYTHONPATH', '')]
    return {'PYTHONPATH': os.pathsep.join(map(str, paths)), 'TRITON_CACHE_DIR': str(tmp_path)}


def test_compile(version, environment):
    """Without spills, in any version."""
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', COMPILE],
        env={**os.environ, **environment},
        input=json.dumps(COMPILED),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    name, file, found = json.loads(result.stdout.splitlines()[-1])
    assert name == version[0] and Path(file).is_relative_to(version[1])
    assert list(found) == list(map(str, COMPILED))
    assert not {wanted: wrong for wanted, (_, wrong) in found.items() if wrong}
    kernels = {kernel for taken, _ in found.values() for kernel in taken}
    assert kernels >= {'forward', 'backward', 'segments', 'chain', 'merge', 'gate', 'collect', 'conv backward'}


def test_emulated(version, environment):
    if tuple(map(int, version[0].split('.')[:2])) < (3, 7):
        pytest.skip('the emulator knows the launcher of Triton 3.7 and newer')
    printed = run_apart(EMULATED, {**environment, 'PTX_ARCH': '90'}, '-p', 'ptx.plugin')
    assert 'emulated' in printed and 'on sm_90' in printed
