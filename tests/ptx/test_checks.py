"""The checks of the emulator see what they are there for, and nothing else; unknown PTX is an error."""

import numpy as np
import pytest

from ptx.check import Faults
from ptx.machine import compiler
from ptx.parse import Unknown, parse
from ptx.translate import Program
from ptx.writing import run_text, write

pytestmark = pytest.mark.skipif(compiler() is None, reason='no C compiler')

# Each thread writes its element of the first array or of shared memory, then reads its neighbour's.
OWN = 'mad.wide.s32 %rd2, %r1, 4, %rd0;\n'
NEXT = 'add.s32 %r2, %r1, 1;\nand.b32 %r2, %r2, 63;\nmad.wide.s32 %rd3, %r2, 4, %rd0;\n'
SHARED = 'mul.lo.s32 %r3, %r1, 4;\nmul.lo.s32 %r4, %r2, 4;\n'
WRITE, READ = 'st.global.b32 [%rd2], %r1;\n', 'ld.global.b32 %r10, [%rd3];\n'
WRITE_NEXT, READ_OWN = 'st.global.b32 [%rd3], %r1;\n', 'ld.global.b32 %r10, [%rd2];\n'
BARRIER, WARP_BARRIER = 'bar.sync 0;\n', 'bar.warp.sync -1;\n'
SHUFFLE = 'shfl.sync.bfly.b32 %r10, %r10, 1, 31, -1;\n'


def faults(body, size=64, threads=64, programs=1, dtype=np.int32, **options):
    """Kinds of what is found in a kernel with one array."""
    array = np.zeros(size, dtype)
    try:
        run_text(write(OWN + NEXT + SHARED + body, 1, threads), [array], programs, races=True, **options)
    except Faults as error:
        assert 'kernel: ' in str(error)
        return error.kinds
    return set()


def shared(text):
    """The same accesses in shared memory."""
    return text.replace('global', 'shared').replace('%rd2', '%r3').replace('%rd3', '%r4')


@pytest.mark.parametrize('space', ['global', 'shared'])
@pytest.mark.parametrize(
    ('body', 'expected'),
    [
        (WRITE + READ, {'read after write'}),
        (WRITE + BARRIER + READ, set()),
        (WRITE + WARP_BARRIER + READ, {'read after write'}),  # the last lane reads of the other warp
        (READ + SHUFFLE + WRITE + READ_OWN, {'write after read'}),  # likewise
        (READ + WRITE, {'write after read'}),
        (READ + BARRIER + WRITE, set()),
        (WRITE + WRITE_NEXT, {'write after write'}),
        (WRITE + BARRIER + WRITE_NEXT, set()),
        (WRITE + READ_OWN + WRITE, set()),
        (WRITE + BARRIER + READ + BARRIER + WRITE_NEXT + BARRIER + READ_OWN, set()),
        (WRITE + BARRIER + READ + WRITE_NEXT + READ, set()),
        (WRITE + BARRIER + READ + READ_OWN + WRITE, {'write after read'}),
    ],
)
def test_races_in_a_program(body, expected, space):
    if space == 'shared':
        body = shared(body)
    assert faults(body, shared=256) == expected


def test_races_in_a_warp():
    """Within one warp its own barrier suffices; a shuffle orders a write after a read, not a read after a write."""
    wrap = 'and.b32 %r2, %r2, 31;\nmad.wide.s32 %rd3, %r2, 4, %rd0;\n'
    assert faults(wrap + WRITE + READ, threads=32) == {'read after write'}
    assert faults(wrap + WRITE + WARP_BARRIER + READ, threads=32) == set()
    assert faults(wrap + WRITE + SHUFFLE.replace('%r10', '%r1') + READ, threads=32) == {'read after write'}
    assert faults(wrap + READ + WRITE, threads=32) == {'write after read'}
    assert faults(wrap + READ + SHUFFLE + WRITE, threads=32) == set()
    assert faults(wrap + READ + WARP_BARRIER + WRITE, threads=32) == set()


def test_the_same_value_twice():
    one = 'mov.b64 %rd2, %rd0;\n'
    assert faults(one + 'st.global.b32 [%rd2], 5;\n') == set()
    assert faults(one + WRITE) == {'write after write'}
    first = 'mov.b32 %r3, 0;\n'
    assert faults(first + 'st.shared.b32 [%r3], 5;\n', shared=16) == set()  # copies, written at once
    assert faults(first + shared(WRITE), shared=16) == {'write after write'}  # copies that differ


@pytest.mark.parametrize('between', ['', BARRIER])
def test_races_between_programs(between):
    """Whatever barriers there are; who only reads, or has addresses of its own, is not meant."""
    own = 'mad.wide.s32 %rd2, %r0, 4, %rd0;\n'
    assert faults(between + WRITE, programs=2) == {'between programs'}
    assert faults(READ_OWN, programs=2) == set()
    assert faults(own + WRITE + between + READ_OWN, 128, programs=2) == set()
    first = 'mov.u32 %r5, %ctaid.x;\nsetp.eq.s32 %p1, %r5, {};\n@%p1 '
    assert faults(first.format(0) + WRITE + between + READ_OWN, programs=2) == {'between programs'}
    assert faults(READ_OWN + between + first.format(1) + WRITE, programs=2) == {'between programs'}


def test_bounds():
    assert faults(READ_OWN, 63) == faults(WRITE, 63) == {'out of bounds'}
    assert faults('ld.global.b32 %r10, [%rd2+-4];') == {'out of bounds'}
    assert faults('setp.lt.s32 %p1, %r1, 63;\n@%p1 ' + READ_OWN, 63) == set()
    assert faults(shared(READ_OWN), shared=256) == set()
    assert faults(shared(READ_OWN), shared=252) == faults(shared(WRITE), shared=252) == {'out of bounds'}
    with pytest.raises(Faults, match=r'thread 63 of program 0 .*byte 252 of array 0, which has 252'):
        run_text(write(OWN + READ_OWN, 1, 64), [np.zeros(63, np.int32)])


def test_alignment():
    """A vector of 8 bytes at a multiple of 4."""
    vector = 'mad.wide.s32 %rd2, %r1, 8, %rd0;\nld.global.v2.b32 {{%r10, %r11}}, [%rd2+{}];\n'
    assert faults(vector.format(8), 130) == set()
    assert faults(vector.format(4), 130) == {'misaligned'}
    assert faults('ld.global.b32 %r10, [%rd2+2];', 65) == {'misaligned'}


def test_branches_divisions_and_ends():
    branch = 'setp.lt.s32 %p1, %r1, {};\n@%p1 bra $L__1;\n$L__1:\n'
    assert faults(branch.format(64)) == faults(branch.format(0)) == set()
    assert faults(branch.format(10)) == {'divergent branch'}
    assert faults('div.s32 %r10, %r1, %r1;\n') == faults('rem.u32 %r10, 5, %r1;\n') == {'division by zero'}
    assert faults('or.b32 %r2, %r1, 1;\ndiv.s32 %r10, %r1, %r2;\n') == set()


def test_endless(monkeypatch):
    monkeypatch.setattr('ptx.machine._MOST_STEPS', 1000)
    assert faults('$L__1:\nbra.uni $L__1;\n') == {'endless'}


@pytest.mark.parametrize(
    'statement',
    [
        'add.rz.f32 %r1, %r1, %r1;',
        'atom.global.add.f32 %r1, [%rd0], %r1;',
        'mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r1}, {%r1}, {%r1}, {%r1};',
        'ld.global.cs.b32 %r1, [%rd0];',
        'ld.global.b64 %r1, [%rd0];',
        'ld.global.v2.b32 %r1, [%rd0];',
        'ld.global.s8 %rs1, [%rd0];',
        'ld.global.b32 %r1, [%r0];',
        'ld.global.b32 %r1, [%rd0+%rd0];',
        'ld.param.b32 %r1, [kernel_param_0];',
        'add.s32 %r1, %rd0, 1;',
        'add.s32 %r1, %r1;',
        'add.f32 %r1, %r1, %r1, %r1;',
        'min.s32 %r1, %r1, %r1, %r1;',
        'add.f32 %r1, %r1, 1;',
        'mov.b16 %rs1, 65536;',
        'mov.b32 %r1, 017;',
        'mov.u32 %r1, %smid;',
        'mov.b32 %r1, unknown;',
        'mov.b32 %r1, %r99;',
        'mov.b64 {%r1, %r2, %r3}, %rd0;',
        'shfl.sync.bfly.b32 %r1, %r1, 1, 31, 15;',
        'shfl.sync.bfly.b32 %r1|%p1, %r1, 1, 31, -1;',
        'bar.sync 1;',
        'bar.sync 0, 32;',
        '@%p0 bar.sync 0;',
        'bra $L__nowhere;',
        'setp.lt.s32 %p1|%p2, %r1, %r1;',
        'exit;',
        'trap;',
        '.local .align 4 .b8 depot[16];',
        '{ .reg .b32 t; }',
    ],
)
def test_unknown_is_an_error(statement):
    with pytest.raises(Unknown, match=r'line 1\d'):
        Program(parse(write(f'setp.lt.s32 %p0, %r0, 1;\n{statement}', 1)))


def test_texts_that_are_no_kernel():
    text = write('')
    with pytest.raises(Unknown, match='2 kernels'):
        parse(text + text)
    with pytest.raises(Unknown, match='number of threads'):
        parse(text.replace('.reqntid 32', ''))
    with pytest.raises(Unknown, match='number of threads'):
        parse(text.replace('.reqntid 32', '.reqntid 32, 2'))
    with pytest.raises(Unknown, match='whole warps'):
        Program(parse(text.replace('.reqntid 32', '.reqntid 40')))
    with pytest.raises(Unknown, match='no number or pointer'):
        parse(
            text.replace('.param .u64 .ptr .global .align 1 kernel_param_0', '.param .align 64 .b8 kernel_param_0[128]')
        )
    with pytest.raises(Unknown, match='no number or pointer'):
        parse(text.replace('.param .u64 .ptr .global .align 1 kernel_param_0', '.param .u8 kernel_param_0'))
    with pytest.raises(Unknown, match='no end'):
        parse(text[: text.rindex('}')])
