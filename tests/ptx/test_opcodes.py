"""Each opcode of the emulator against its definition in Python, in a kernel of its own."""

import itertools
import math
import random

import numpy as np
import pytest
import torch

from ptx.definitions import DEFINITIONS
from ptx.machine import compiler
from ptx.opcodes import ARITHMETIC
from ptx.writing import run_text, write

pytestmark = pytest.mark.skipif(compiler() is None, reason='no C compiler')

# Register prefix and width in memory of each type.
REGISTERS = {'pred': ('rs', 16), **dict.fromkeys(('f16', 'bf16', 's8', 'u8'), ('rs', 16)), 'f32': ('r', 32)}
REGISTERS |= {f'{sign}{bits}': (prefix, bits) for bits, prefix in ((16, 'rs'), (32, 'r'), (64, 'rd')) for sign in 'bsu'}
ARRAYS = {16: np.uint16, 32: np.uint32, 64: np.uint64}
EDGES = {16: (0, 1, 7, 0x7FFF, 0x8000, 0xFFFF), 32: (0, 1, 31, 32, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)}
EDGES[64] = (0, 1, 0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
FLOATS = (0.0, -0.0, 1.0, -1.5, 3.1415927, 1e-40, -1e-45, 1.17549435e-38, 3e38, 65519.0, 65520.0, 6e-8, 3e-8)
FLOATS = tuple(int(np.float32(x).view(np.uint32)) for x in (*FLOATS, -100.25, -130.5, math.inf, -math.inf, math.nan))
HALVES = {
    'f16': (0, 0x8000, 1, 0x3FF, 0x400, 0x3C00, 0xBE00, 0x7BFF, 0x7C00, 0xFC00, 0x7E00),
    'bf16': (0, 0x8000, 1, 0x7F, 0x80, 0x3F80, 0xBFC0, 0x7F7F, 0x7F80, 0xFF80, 0x7FC0),
}


def edges(kind):
    """Bits that are most likely to go wrong."""
    if kind == 'pred':
        return (0, 1)
    return FLOATS if kind == 'f32' else HALVES.get(kind) or EDGES[REGISTERS[kind][1]]


def to_number(bits, kind):
    """The number that a type's bits mean."""
    if kind == 'pred':
        return bool(bits)
    if kind == 'f32':
        return float(np.uint32(bits).view(np.float32))
    if kind == 'f16':
        return float(np.uint16(bits).view(np.float16))
    if kind == 'bf16':
        return float(np.uint32(bits << 16).view(np.float32))
    width = int(kind[1:])
    bits %= 1 << width
    return bits - (1 << width) if kind[0] == 's' and bits >> (width - 1) else bits


def to_bits(number, kind):
    """The bits that a type has for a number; a NaN is None."""
    if kind in ('f16', 'bf16', 'f32') and number != number:
        return None
    if kind == 'f32':
        with np.errstate(over='ignore'):
            return int(np.float32(number).view(np.uint32))
    if kind == 'f16':
        return int(np.float16(number).view(np.uint16))
    if kind == 'bf16':
        return int(np.float32(number).view(np.uint32)) >> 16
    return int(number) % (1 << REGISTERS[kind][1])


def inputs(opcode, sources):
    """Tuples of bits: all edges together, as far as there are not too many, and random ones; whole warps of them."""
    generator = random.Random(opcode)
    values = list(itertools.product(*map(edges, sources)))
    values = generator.sample(values, min(len(values), 400))
    for _ in range(200):
        widths = [1 if kind == 'pred' else REGISTERS[kind][1] for kind in sources]
        one = [generator.getrandbits(width) for width in widths]
        if opcode.startswith(('shl', 'shr', 'bfe')):  # amounts of which something is left
            one[1:] = [generator.randrange(40) for _ in one[1:]]
        values.append(tuple(one))
    if opcode.startswith(('div.s', 'div.u', 'rem.')):
        values = [x for x in values if x[1]]
    return values + values[: -len(values) % 32]


def kernel_of(opcode, result, sources):
    """A kernel that loads the sources, executes the opcode and stores the result, the last parameter."""
    lines, names = [], []
    for number, kind in enumerate(sources):
        prefix, bits = REGISTERS[kind]
        name = f'%{prefix}{10 + number}'
        lines += [
            f'mad.wide.s32 %rd20, %r0, {bits // 8}, %rd{number};',
            f'ld.global.b{bits} {name}, [%rd20];',
        ]
        if kind == 'pred':
            lines.append(f'setp.ne.b16 %p{10 + number}, {name}, 0;')
            name = f'%p{10 + number}'
        names.append(name)
    prefix, bits = REGISTERS[result]
    target = f'%{prefix}15'
    lines.append(f'{opcode.partition("/")[0]} {"%p15" if result == "pred" else target}, {", ".join(names)};')
    if result == 'pred':
        lines.append(f'selp.b16 {target}, 1, 0, %p15;')
    lines += [f'mad.wide.s32 %rd20, %r0, {bits // 8}, %rd{len(sources)};', f'st.global.b{bits} [%rd20], {target};']
    return write('\n'.join(lines), len(sources) + 1)


def compute(opcode, result, sources, values):
    """The results of an opcode, as bits, for tuples of bits."""
    arrays = [
        np.array(x, ARRAYS[REGISTERS[kind][1]]) for x, kind in zip(zip(*values, strict=True), sources, strict=True)
    ]
    arrays.append(np.zeros(len(values), ARRAYS[REGISTERS[result][1]]))
    run_text(kernel_of(opcode, result, sources), arrays, len(values) // 32)
    return arrays[-1].tolist()


def test_every_opcode_is_defined():
    assert set(DEFINITIONS) == set(ARITHMETIC)


def differences(opcode, definition):
    """Where an opcode computes something else than a definition: numbers, expected, found."""
    result, sources, function, approximate = definition
    values = inputs(opcode, sources)
    wrong = []
    for given, bits in zip(values, compute(opcode, result, sources, values), strict=True):
        numbers = [to_number(x, kind) for x, kind in zip(given, sources, strict=True)]
        expected, found = function(*numbers), to_number(bits, result)
        if approximate and math.isfinite(expected) and math.isfinite(found):
            right = math.isclose(expected, found, rel_tol=2**-22, abs_tol=1e-44)
        elif opcode.endswith('f32x2'):
            halves = [(to_number((x >> shift) % 2**32, 'f32')) for x in (expected, bits) for shift in (0, 32)]
            right = all(x == y or (x != x and y != y) for x, y in zip(halves[:2], halves[2:], strict=True))
        else:
            expected_bits = to_bits(expected, result)
            right = found != found if expected_bits is None else expected_bits == bits
        if not right:
            wrong.append((numbers, expected, found))
    return wrong


@pytest.mark.parametrize('opcode', DEFINITIONS)
def test_arithmetic(opcode):
    wrong = differences(opcode, DEFINITIONS[opcode])
    assert not wrong, (len(wrong), wrong[:5])


@pytest.mark.parametrize(
    ('opcode', 'other'),
    [
        *(
            (name.format('s'), name.format('u'))
            for name in ('shr.{}32', 'min.{}64', 'mul.hi.{}32', 'bfe.{}32', 'div.{}64')
        ),
        ('cvt.s64.s32', 'cvt.u64.u32'),
        ('cvt.u32.u8', 'cvt.u32.u16'),
        ('setp.ne.f32', 'setp.neu.f32'),
        ('setp.ge.f16', 'setp.ge.bf16'),
        ('max.f32', 'max.NaN.f32'),
        ('cvt.rn.f16x2.f32', 'cvt.rn.bf16x2.f32'),
        ('add.rn.f32.f16', 'sub.rn.f32.f16'),
        ('ex2.approx.f32', 'ex2.approx.ftz.f32'),
        ('selp.b32', 'selp.f32'),
    ],
)
def test_control(opcode, other):
    """The inputs tell neighbours apart, and the last two, which are the same, are the same."""
    assert bool(differences(opcode, DEFINITIONS[other])) == (opcode != 'selp.b32')


def test_control_of_rounding():
    """A product that is rounded before it is added is seen, and so are halves in the wrong order."""
    fused, pair = DEFINITIONS['fma.rn.f32'], DEFINITIONS['cvt.rn.f16x2.f32']
    multiply, add = (DEFINITIONS[name].function for name in ('mul.f32', 'add.f32'))
    assert differences('fma.rn.f32', fused._replace(function=lambda a, b, c: add(multiply(a, b), c)))
    assert differences('cvt.rn.f16x2.f32', pair._replace(function=lambda a, b: pair.function(b, a)))


@pytest.mark.parametrize(('half', 'dtype'), [('f16', torch.float16), ('bf16', torch.bfloat16)])
def test_all_halves(half, dtype):
    """Every number of 16 bits, there and back, against PyTorch."""
    bits = np.arange(65536, dtype=np.uint16)
    halves = torch.from_numpy(bits.view(np.int16)).view(dtype)
    singles = compute(f'cvt.f32.{half}', 'f32', (half,), [(x,) for x in bits.tolist()])
    found = torch.from_numpy(np.array(singles, np.uint32).view(np.float32))
    assert torch.equal(found.nan_to_num(7.0), halves.float().nan_to_num(7.0))
    # Between two of them, a little below and above the middle, and the middle itself.
    finite = halves[halves.isfinite()].double()
    between = torch.cat([(finite + finite.roll(1)) / 2 * scale for scale in (1, 1 + 1e-7, 1 - 1e-7)]).float()
    between = between[: len(between) // 32 * 32]
    rounded = compute(f'cvt.rn.{half}.f32', half, ('f32',), [(x,) for x in between.numpy().view(np.uint32).tolist()])
    assert rounded == between.to(dtype).view(torch.int16).numpy().view(np.uint16).tolist()
