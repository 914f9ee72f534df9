"""The suite that runs in Triton's interpreter, once more on compiled kernels (``tests/ptx``)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from emulated import ARCHITECTURES, EVERY, NEEDS_EMULATOR
from test_triton import INTERPRETED

FOLDER = Path(__file__).parent
# Of the longer ones some tests by default, on one architecture.
FEW = {
    'interpreted_triton.py': 'equal_bits or extremes or goes_to_torch',
    'interpreted_fused.py': 'sum_alone or wide_stream',
    'interpreted_models.py': 'hooks and plainmamba',
    'test_operators.py': 'opcheck_conv or double_backward',
    'test_partial_paths.py': 'not_read',
}


def chosen():
    """Which tests, in the words of ``-k``."""
    tests = INTERPRETED if EVERY else {file: FEW.get(file, words) for file, words in INTERPRETED.items()}
    return ' or '.join(f'({file} and ({words}))' if words else file for file, words in tests.items())


@NEEDS_EMULATOR
@pytest.mark.slow
@pytest.mark.parametrize('arch', ARCHITECTURES if EVERY else (90,))
def test_emulated(arch, compiled):
    """A process of its own, because tests ask on import which backends there are."""
    options = ['-q', '-x', '-W', 'ignore', '-p', 'no:cacheprovider', '-p', 'ptx.plugin', '--rootdir', FOLDER]
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', *options, *(FOLDER / file for file in INTERPRETED), '-k', chosen()],
        env={
            **os.environ,
            'PYTHONPATH': os.pathsep.join([str(FOLDER.parent), os.environ.get('PYTHONPATH', '')]),
            'PTX_ARCH': str(arch),
            'PTX_FOLDER': str(compiled),
        },
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert int(re.search(rf'emulated (\d+) launches on sm_{arch}', result.stdout)[1]) > 30
