"""The suite that runs in Triton's interpreter, once more on compiled kernels (``tests/ptx``)."""

import os
import re

import pytest
from emulated import ARCHITECTURES, EVERY, NEEDS_EMULATOR
from test_triton import FOLDER, INTERPRETED, run_apart

# Of the longer ones some tests by default, on one architecture.
FEW = {
    'interpreted_triton.py': 'equal_bits or extremes or goes_to_torch',
    'interpreted_tiles.py': '(lanes and 64) or sigmoid or (tiles_of and (2 or 8))',
    'interpreted_fused.py': 'sum_alone or wide_stream',
    'interpreted_models.py': 'hooks and plainmamba',
    'test_operators.py': 'opcheck_conv or double_backward',
    'test_partial_paths.py': 'not_read',
}


@NEEDS_EMULATOR
@pytest.mark.slow
@pytest.mark.parametrize('arch', ARCHITECTURES if EVERY else (90,))
def test_emulated(arch, compiled):
    """Each kernel of the interpreted suite on the emulator, with races looked for."""
    tests = INTERPRETED if EVERY else {file: FEW.get(file, words) for file, words in INTERPRETED.items()}
    path = os.pathsep.join([str(FOLDER.parent), os.environ.get('PYTHONPATH', '')])
    environment = {'PYTHONPATH': path, 'PTX_ARCH': str(arch), 'PTX_FOLDER': str(compiled)}
    printed = run_apart(tests, environment, '-p', 'ptx.plugin')
    assert int(re.search(rf'emulated (\d+) launches on sm_{arch}', printed)[1]) > 30
