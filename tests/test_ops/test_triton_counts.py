"""Instructions of the Triton kernels: what the record says, and that the counter counts."""

import os

import pytest
import triton_counts
from triton_counts import Loop, count, find_loops, read, read_code

from mmvim.ops.triton_host.device import installed, interpreting

EVERY = os.environ.get('MMVIM_TEST_EVERY_KERNEL') == '1'
# A loop over tiles, once round for 4 steps of 64 channels, in which another loop goes over 8 states, 2 at a time.
CODE = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;   /* 0x00000a0000017a02 */
        /*0010*/                   LDG.E R2, [R2.64] ;      /* 0x0 */
        /*0020*/                   FMUL R3, R2, R2 ;
        {exponentials}
        /*0140*/              @!P0 BRA 0x20 ;
        /*0150*/                   STG.E [R2.64], R3 ;
        /*0160*/               @P1 BRA 0x10 ;
        /*0170*/                   EXIT ;
        /*0180*/                   BRA 0x180;
"""


def test_reading_and_counting():
    places = range(0x30, 0x130, 0x10)
    text = CODE.format(exponentials='\n'.join(f'/*{place:04x}*/ MUFU.EX2 R3, R3 ;' for place in places))
    code = read_code(text)
    assert code[0] == ('MOV', None) and code[-1] == ('BRA', len(code) - 1)
    assert find_loops(code) == [Loop(1, 21), Loop(2, 19)]
    found = count('forward', code, {'N': 8, 'STEPS': 4, 'BLOCK_D': 64, 'CHUNK': 16})
    assert found == {'LDG': 1 / 8, 'FMUL': 4 / 8, 'MUFU': 4 * 16 / 8, 'BRA': 5 / 8, 'STG': 1 / 8}


def test_what_is_aimed_at():
    """Of the issue slots of a step of 32 channels, exponentials take 8 each: N + 1 forward, N + 3 backward."""
    now = read()['now']
    assert set(now) == {triton_counts.key(*wanted) for wanted in triton_counts.WANTED}
    for length in (196, 1024):
        assert now[f'vim N=16 float16 L={length}']['backward']['instructions'] <= 2.75 * 8 * (16 + 3)
    assert now['cross N=1 float16 L=1024']['forward']['instructions'] <= 41


@pytest.mark.slow
@pytest.mark.skipif(not installed() or interpreting(), reason='Triton is not installed, or interprets')
@pytest.mark.parametrize('wanted', triton_counts.WANTED if EVERY else triton_counts.WANTED[-1:], ids=str)
def test_counts(wanted):
    import triton

    found, record = triton_counts.measure(*wanted), read()
    if triton.__version__ == record['triton']:
        assert found == record['now'][triton_counts.key(*wanted)], (
            'the kernels have changed: python tests/test_ops/triton_counts.py --write'
        )
