"""What the emulator does beside arithmetic: memory, vectors, matrices, lanes, branches, special registers."""

import numpy as np
import pytest

from ptx.machine import compiler
from ptx.opcodes import MATRICES, MEMORY, PACKS, SHUFFLES, WIDTHS
from ptx.writing import run_text, write

pytestmark = pytest.mark.skipif(compiler() is None, reason='no C compiler')

THREADS = 64
REGISTER = {16: 'rs', 32: 'r', 64: 'rd'}
ARRAYS = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def numbers(count, bits, seed=0):
    """Random numbers, at a multiple of 64 bytes."""
    memory = np.empty(count * bits // 8 + 64, np.uint8)
    memory = memory[-memory.ctypes.data % 64 :][: count * bits // 8]
    memory[:] = np.random.default_rng(seed).integers(0, 256, len(memory))
    return memory.view(ARRAYS[bits])


def braces(names):
    return f'{{ {", ".join(names)} }}' if len(names) > 1 else names[0]


def test_what_is_tested_is_all():
    spaces = ('ld_global', 'st_global', 'ld_shared', 'st_shared')
    assert {f'{space}_{bits}_{width}' for space in spaces for bits, x in WIDTHS.items() for width in x} == MEMORY
    assert {'ldmatrix', 'ldmatrix_trans', 'stmatrix', 'stmatrix_trans'} == MATRICES
    assert {'shfl_up', 'shfl_down', 'shfl_bfly', 'shfl_idx'} == SHUFFLES
    assert set(PACKS) == {'pack_2_16', 'pack_2_32', 'pack_4_16'}


@pytest.mark.parametrize(('bits', 'width'), [(bits, width) for bits, widths in WIDTHS.items() for width in widths])
@pytest.mark.parametrize('count', [1, 2, 4])
def test_memory(bits, width, count):
    """From global memory to shared memory, where the next thread reads it, and back; the vectors' order is turned."""
    names = [f'%{REGISTER[width]}{10 + e}' for e in range(count)]
    size, vector = bits // 8 * count, f'.v{count}' if count > 1 else ''
    body = f"""
        mad.wide.s32 %rd2, %r0, {size}, %rd0;
        ld.global{vector}.b{bits} {braces(names)}, [ %rd2 + 0 ];
        mul.lo.s32 %r2, %r0, {size};
        st.shared{'::cta' if count == 2 else ''}{vector}.b{bits} [%r2+32], {braces(names[::-1])};
        bar.sync 0;
        add.s32 %r3, %r0, 1;
        and.b32 %r3, %r3, {THREADS - 1};
        mul.lo.s32 %r3, %r3, {size};
        add.s32 %r3, %r3, 64;
        ld.shared{vector}.b{bits} {braces(names)}, [%r3+-32];
        mad.wide.s32 %rd3, %r0, {size}, %rd1;
        st.global{vector}.b{bits} [ %rd3 + 0 ], {braces(names)};
    """
    given = numbers(THREADS * count, bits).reshape(THREADS, count)
    found = numbers(THREADS * count, bits, 1).reshape(THREADS, count)
    run_text(write(body, 2, THREADS), [given, found], shared=32 + size * THREADS, races=True)
    assert np.array_equal(found, np.roll(given, -1, axis=0)[:, ::-1])


@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('count', [1, 2, 4])
@pytest.mark.parametrize('store', [False, True])
def test_matrices(count, transposed, store):
    """Lane 8k + r has the address of row r of matrix k; lane q has elements 2q and 2q + 1 of each, of its transpose."""
    names = [f'%r{10 + e}' for e in range(count)]
    opcode = f'{"st" if store else "ld"}matrix.sync.aligned.m8n8.x{count}{".trans" if transposed else ""}.shared.b16'
    registers = braces(names) if count > 1 else f'{{{names[0]}}}'
    # The registers lie in an array (lane, count), shared memory, (matrices of all warps, 8, 8), in another one.
    move = [f'mad.wide.s32 %rd5, %r0, {4 * count}, %rd0;', f'mad.wide.s32 %rd6, %r0, {4 * count}, %rd1;']
    share = ['shr.u32 %r3, %r0, 5;', f'mul.lo.s32 %r3, %r3, {128 * count};', 'and.b32 %r4, %r0, 31;']
    share += [
        f'and.b32 %r4, %r4, {8 * count - 1};',
        'mad.lo.s32 %r3, %r4, 16, %r3;',
        f'mul.lo.s32 %r5, %r0, {4 * count};',
    ]
    for e, name in enumerate(names):
        if store:
            move += [f'ld.global.b32 {name}, [%rd5+{4 * e}];']
        else:
            share += [f'ld.global.b32 %r6, [%rd5+{4 * e}];', f'st.shared.b32 [%r5+{4 * e}], %r6;']
    share += [
        'bar.sync 0;',
        f'{opcode} [%r3], {registers};' if store else f'{opcode} {registers}, [%r3];',
        'bar.sync 0;',
    ]
    for e, name in enumerate(names):
        if store:
            share += [f'ld.shared.b32 %r6, [%r5+{4 * e}];', f'st.global.b32 [%rd6+{4 * e}], %r6;']
        else:
            share += [f'st.global.b32 [%rd6+{4 * e}], {name};']
    given = numbers(THREADS * 2 * count, 16)
    found = np.zeros_like(given)
    run_text(
        write('\n'.join(move + share), 2, THREADS), [given, found], shared=128 * count * (THREADS // 32), races=True
    )
    registers, matrices = (found, given) if not store else (given, found)
    registers = registers.reshape(THREADS // 32, 32, count, 2).transpose(0, 2, 1, 3).reshape(-1, 8, 8)
    matrices = matrices.reshape(-1, 8, 8)
    assert np.array_equal(registers, matrices.transpose(0, 2, 1) if transposed else matrices)


@pytest.mark.parametrize('mode', ['up', 'down', 'bfly', 'idx'])
@pytest.mark.parametrize('choice', [0, 1, 5, 16, 31])
@pytest.mark.parametrize('width', [32, 8])
def test_shuffles(mode, choice, width):
    """Within segments of ``width`` lanes; who would read beyond its segment keeps its own."""
    bounds = (32 - width) << 8 | (0 if mode == 'up' else 31)
    body = f"""
        mad.wide.s32 %rd2, %r0, 4, %rd0;
        ld.global.b32 %r2, [%rd2];
        shfl.sync.{mode}.b32 %r2, %r2, {choice}, {bounds}, -1;
        mad.wide.s32 %rd3, %r0, 4, %rd1;
        st.global.b32 [%rd3], %r2;
    """
    given = numbers(THREADS, 32)
    found = np.zeros_like(given)
    run_text(write(body, 2, THREADS), [given, found])
    expected = given.copy()
    for lane in range(THREADS):
        first = lane // width * width
        at = {'up': lane - choice, 'down': lane + choice, 'bfly': lane ^ choice, 'idx': first + choice % width}[mode]
        # A mask may lead to the segments before, but not to those behind.
        if (mode == 'bfly' or first <= at) and at < first + width:
            expected[lane] = given[at]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(('bits', 'count'), [(16, 2), (32, 2), (16, 4)])
def test_packs(bits, count):
    """Unpacked and packed again in turned order, and one element alone."""
    names, whole = [f'%{REGISTER[bits]}{10 + e}' for e in range(count)], bits * count
    register = f'%{REGISTER[whole]}5'
    body = f"""
        mad.wide.s32 %rd2, %r0, {whole // 8}, %rd0;
        ld.global.b{whole} {register}, [%rd2];
        mov.b{whole} {{{', '.join(names)}}}, {register};
        mov.b{whole} {register}, {{{', '.join(names[::-1])}}};
        mov.b{whole} {{{', '.join(['_', *names[1:]])}}}, {register};
        mad.wide.s32 %rd3, %r0, {whole // 8}, %rd1;
        st.global.b{whole} [%rd3], {register};
        mad.wide.s32 %rd3, %r0, {bits // 8}, %rd4;
        st.global.b{bits} [%rd3], {names[1]};
    """.replace('%rd4', '%rd6')
    given, found, second = numbers(32 * count, bits), np.zeros(32 * count, ARRAYS[bits]), np.zeros(32, ARRAYS[bits])
    run_text(write('mov.b64 %rd6, %rd2;\n' + body, 3), [given, found, second])
    turned = given.reshape(32, count)[:, ::-1]
    assert np.array_equal(found.reshape(32, count), turned) and np.array_equal(second, turned[:, 1])


def test_guards():
    """Threads whose guard does not hold keep what they have: in arithmetic, loads and stores, negated or not."""
    body = """
        mad.wide.s32 %rd2, %r0, 4, %rd0;
        mad.wide.s32 %rd3, %r0, 4, %rd1;
        setp.lt.s32 %p1, %r0, 20;
        setp.lt.s32 %p2, %r0, 10;
        mov.b32 %r2, 7;
        @%p1 ld.global.b32 %r2, [%rd2];
        @!%p2 add.s32 %r2, %r2, 100;
        setp.lt.s32 %p3, %r0, 30;
        @%p3 st.global.b32 [%rd3], %r2;
    """
    given, found = np.arange(20, dtype=np.int32), np.full(32, -1, np.int32)
    run_text(write(body, 2), [given, found])
    assert found.tolist() == [*range(10), *range(110, 120), *[107] * 10, -1, -1]


def test_loops_and_special_registers():
    """Program number p of three adds its thread's number p + 1 times to the numbers of threads and programs."""
    body = """
        mov.u32 %r2, %ctaid.x;
        mov.u32 %r3, %ntid.x;
        mov.u32 %r4, %nctaid.x;
        add.s32 %r5, %r3, %r4;
        mov.u32 %r6, %ctaid.y;
        mov.u32 %r8, %laneid;
$L__top:
        .loc 1 3 4 // kernels.py:3:4
        add.s32 %r5, %r5, %r8; add.s32 %r6, %r6, 1;
        setp.gt.s32 %p1, %r6, %r2;
        @!%p1 bra $L__top;
        bra.uni $L__end;
        mov.b32 %r5, 0;
$L__end:
        mad.wide.s32 %rd2, %r0, 4, %rd0;
        st.global.b32 [%rd2], %r5;
    """
    found = np.zeros((3, 64), np.int32)
    run_text(write(body, 1, 64), [found], 3, races=True)
    assert np.array_equal(found, 67 + np.arange(1, 4)[:, None] * (np.arange(64) % 32))


def test_only_some_programs():
    found = np.zeros(96, np.int32)
    text = write('mad.wide.s32 %rd2, %r0, 4, %rd0;\nst.global.b32 [%rd2], 1;')
    run_text(text, [found], 3, only=[2, 0])
    assert found.reshape(3, 32).sum(1).tolist() == [32, 0, 32]


def test_parameters_of_other_widths():
    """A signed parameter in a wider register is the same number."""
    text = write('ld.param.s32 %rd3, [number];\nmad.wide.s32 %rd2, %r0, 8, %rd0;\nst.global.b64 [%rd2], %rd3;')
    text = text.replace('kernel_param_0\n)', 'kernel_param_0,\n\t.param .u32 number\n)')
    from ptx.check import Extent
    from ptx.machine import run
    from ptx.parse import parse
    from ptx.translate import Program

    found = np.zeros(32, np.int64)
    extent = Extent(found.ctypes.data, found.ctypes.data + found.nbytes, 'found')
    run(Program(parse(text)), (1, 1, 1), [found.ctypes.data, -5], [extent])
    assert set(found.tolist()) == {-5}


@pytest.mark.parametrize(('bits', 'width'), [(bits, width) for bits, widths in WIDTHS.items() for width in widths])
def test_wider_registers(bits, width):
    """What is loaded into a register that is wider has zeros above."""
    register = f'%{REGISTER[width]}10'
    body = f"""
        mad.wide.s32 %rd2, %r0, {bits // 8}, %rd0;
        ld.global.b{bits} {register}, [%rd2];
        mad.wide.s32 %rd3, %r0, {width // 8}, %rd1;
        st.global.b{width} [%rd3], {register};
    """
    given, found = numbers(32, bits), numbers(32, width, 1)
    run_text(write(body, 2), [given, found])
    assert np.array_equal(found, given)


def test_constants():
    """Signed, hexadecimal, unsigned, of a float, a name in shared memory."""
    constants = {
        'b32': ('-3', '0x1F', '0xFFFFFFFFU', '7U', '0f3F800000', 'global_smem'),
        'b64': ('-1', '0d4000000000000000'),
    }
    numbers_ = (2**32 - 3, 31, 2**32 - 1, 7, 0x3F800000, 0, 2**64 - 1, 0x4000000000000000)
    body = 'mad.wide.s32 %rd2, %r0, 64, %rd0;\n'
    for place, (kind, text) in enumerate((kind, text) for kind, texts in constants.items() for text in texts):
        register = '%r5' if kind == 'b32' else '%rd5'
        body += f'mov.{kind} {register}, {text};\nst.global.{kind} [%rd2+{8 * place}], {register};\n'
    found = np.zeros((32, 8), np.uint64)
    run_text(write(body), [found])
    assert found.tolist() == [list(numbers_)] * 32
