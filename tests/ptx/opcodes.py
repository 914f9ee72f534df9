"""What each opcode computes: its operands' types and an expression in C, from which a library is compiled.

An opcode is here with all its modifiers, and one that is not here is an error: 'add.f32' is known, 'add.rz.f32' is not.
``ARITHMETIC`` has what each thread does for itself; the rest names functions of ``machine.h``. In an expression
``a``, ``b`` and ``c`` are the sources, and ``l`` is the number of the thread.

Approximations of the hardware (``ex2.approx``, ``div.full``, ``sqrt.approx``, ...) are computed exactly and rounded
once: PTX promises no bits of them, only that their error is about two units in the last place.
"""

from itertools import product
from typing import NamedTuple


class Type(NamedTuple):
    """A type of PTX.

    Attributes:
        register: Type of the register that holds it.
        stored: C type of the register's values.
        value: C type of the number in an expression.
        read: How to get it from a stored value x.
        write: How to store it.
    """

    register: str
    stored: str
    value: str
    read: str = '{}'
    write: str = '{}'


TYPES = {
    'pred': Type('pred', 'uint8_t', 'int', write='({}) != 0'),
    'f16': Type('b16', 'uint16_t', 'float', 'from_half({})', 'to_half({})'),
    'bf16': Type('b16', 'uint16_t', 'float', 'from_bfloat({})', 'to_bfloat({})'),
    'f32': Type('b32', 'float', 'float'),
    'f64': Type('b64', 'double', 'double'),
    # Registers of 16 bits hold what has 8.
    's8': Type('b16', 'uint16_t', 'int32_t', '(int8_t){}', '(uint16_t)(int16_t)(int8_t)({})'),
    'u8': Type('b16', 'uint16_t', 'int32_t', '(uint8_t){}', '(uint8_t)({})'),
    's16': Type('b16', 'int16_t', 'int32_t'),
    'u16': Type('b16', 'uint16_t', 'uint32_t'),
    'b16': Type('b16', 'uint16_t', 'uint32_t'),
    's32': Type('b32', 'int32_t', 'int32_t'),
    'u32': Type('b32', 'uint32_t', 'uint32_t'),
    'b32': Type('b32', 'uint32_t', 'uint32_t'),
    'f16x2': Type('b32', 'uint32_t', 'uint32_t'),
    's64': Type('b64', 'int64_t', 'int64_t'),
    'u64': Type('b64', 'uint64_t', 'uint64_t'),
    'b64': Type('b64', 'uint64_t', 'uint64_t'),
}


class Opcode(NamedTuple):
    """One opcode.

    Attributes:
        result: Type of the result.
        sources: Types of the sources.
        expression: In C.
    """

    result: str
    sources: tuple[str, ...]
    expression: str


ARITHMETIC: dict[str, Opcode] = {}


def _add(name: str, result: str, sources: str, expression: str) -> None:
    ARITHMETIC[name] = Opcode(result, tuple(sources.split()), expression)


def _integers() -> None:
    """Arithmetic modulo a power of two, which is unsigned in C, comparisons, shifts and bits."""
    for bits in (16, 32, 64):
        b, u, s = f'b{bits}', f'u{bits}', f's{bits}'
        for kind in (u, s):
            _add(f'add.{kind}', b, f'{b} {b}', 'a + b')
            _add(f'sub.{kind}', b, f'{b} {b}', 'a - b')
            _add(f'mul.lo.{kind}', b, f'{b} {b}', 'a * b')
            _add(f'mad.lo.{kind}', b, f'{b} {b} {b}', 'a * b + c')
            _add(f'min.{kind}', kind, f'{kind} {kind}', 'a < b ? a : b')
            _add(f'max.{kind}', kind, f'{kind} {kind}', 'a > b ? a : b')
            _add(
                f'shr.{kind}',
                kind,
                f'{kind} u32',
                f'a >> (b < {bits} ? b : {bits - 1})' if kind == s else f'b < {bits} ? a >> b : 0',
            )
        _add(f'neg.{s}', b, b, '0 - a')
        _add(f'abs.{s}', b, s, 'a < 0 ? 0 - (uint64_t)a : (uint64_t)a')
        _add(f'shl.{b}', b, f'{b} u32', f'b < {bits} ? a << b : 0')
    for kind, bits in product('us', (16, 32)):
        number, wide = f'{kind}{bits}', f'{kind}{2 * bits}'
        product_ = f'({TYPES[wide].value})a * b'
        _add(f'mul.wide.{number}', wide, f'{number} {number}', product_)
        # The sum wraps.
        unsigned = TYPES[f'u{2 * bits}'].value
        _add(f'mad.wide.{number}', wide, f'{number} {number} {wide}', f'({unsigned})({product_}) + ({unsigned})c')
    for kind in 'us':
        sign = '' if kind == 's' else 'unsigned '
        _add(f'mul.hi.{kind}32', f'{kind}32', f'{kind}32 {kind}32', f'({TYPES[kind + "64"].value})a * b >> 32')
        _add(f'mul.hi.{kind}64', f'{kind}64', f'{kind}64 {kind}64', f'({sign}__int128)a * b >> 64')
        for bits in (32, 64):
            number = f'{kind}{bits}'
            _add(f'div.{number}', number, f'{number} {number}', f'divide_{number}(m, i, l, a, b)')
            _add(f'rem.{number}', number, f'{number} {number}', f'remainder_{number}(m, i, l, a, b)')
    for kind in ('pred', 'b16', 'b32', 'b64'):
        _add(f'and.{kind}', kind, f'{kind} {kind}', 'a & b')
        _add(f'or.{kind}', kind, f'{kind} {kind}', 'a | b')
        _add(f'xor.{kind}', kind, f'{kind} {kind}', 'a ^ b')
        _add(f'not.{kind}', kind, kind, '!a' if kind == 'pred' else '~a')
    _add('bfe.u32', 'b32', 'b32 u32 u32', 'field_unsigned(a, b, c)')
    _add('bfe.s32', 'b32', 'b32 u32 u32', 'field_signed(a, b, c)')
    _add('prmt.b32', 'b32', 'b32 b32 b32', 'permute_bytes(a, b, c)')


def _floats() -> None:
    for name, expression in (('add', 'a + b'), ('sub', 'a - b'), ('mul', 'a * b')):
        for kind in ('f32', 'rn.f32'):
            _add(f'{name}.{kind}', 'f32', 'f32 f32', expression)
        pairs = expression.replace('a', '{0}(a)').replace('b', '{0}(b)')
        packed = f'pack_floats({pairs.format("low_float")}, {pairs.format("high_float")})'
        for kind in ('f32x2', 'rn.f32x2'):
            _add(f'{name}.{kind}', 'b64', 'b64 b64', packed)
    _add('fma.rn.f32', 'f32', 'f32 f32 f32', 'fmaf(a, b, c)')
    fused = 'fmaf({0}(a), {0}(b), {0}(c))'
    _add(
        'fma.rn.f32x2', 'b64', 'b64 b64 b64', f'pack_floats({fused.format("low_float")}, {fused.format("high_float")})'
    )
    for half in ('f16', 'bf16'):  # of Blackwell: halves taken into float32
        _add(f'add.rn.f32.{half}', 'f32', f'{half} f32', 'a + b')
        _add(f'sub.rn.f32.{half}', 'f32', f'{half} f32', 'a - b')
        _add(f'fma.rn.f32.{half}', 'f32', f'{half} {half} f32', 'fmaf(a, b, c)')
    for kind in ('full', 'approx', 'rn'):
        _add(f'div.{kind}.f32', 'f32', 'f32 f32', 'a / b')
    _add('rcp.approx.ftz.f32', 'f32', 'f32', 'flush(1.0f / flush(a))')
    _add('rcp.rn.f32', 'f32', 'f32', '1.0f / a')
    _add('sqrt.approx.ftz.f32', 'f32', 'f32', 'flush(sqrtf(flush(a)))')
    _add('sqrt.rn.f32', 'f32', 'f32', 'sqrtf(a)')
    _add('rsqrt.approx.ftz.f32', 'f32', 'f32', '1.0f / sqrtf(flush(a))')
    _add('rsqrt.approx.f32', 'f32', 'f32', '1.0f / sqrtf(a)')
    _add('ex2.approx.ftz.f32', 'f32', 'f32', 'flush(exp2f(flush(a)))')
    _add('ex2.approx.f32', 'f32', 'f32', 'exp2f(a)')
    _add('lg2.approx.ftz.f32', 'f32', 'f32', 'flush(log2f(flush(a)))')
    _add('lg2.approx.f32', 'f32', 'f32', 'log2f(a)')
    _add('abs.f32', 'f32', 'f32', 'fabsf(a)')
    _add('neg.f32', 'f32', 'f32', '-a')
    _add('min.f32', 'f32', 'f32 f32', 'smaller(a, b)')
    _add('max.f32', 'f32', 'f32 f32', 'larger(a, b)')
    _add('min.NaN.f32', 'f32', 'f32 f32', 'or_nan(a, b, smaller(a, b))')
    _add('max.NaN.f32', 'f32', 'f32 f32', 'or_nan(a, b, larger(a, b))')
    # Of three numbers, on Blackwell; such opcodes have the number of sources in their names here.
    for name, function in (('min', 'smaller'), ('max', 'larger')):
        of_three = f'{function}({function}(a, b), c)'
        _add(f'{name}.f32/3', 'f32', 'f32 f32 f32', of_three)
        _add(f'{name}.NaN.f32/3', 'f32', 'f32 f32 f32', f'or_nan(or_nan(a, b, 0), c, {of_three})')
    for half in ('f16', 'bf16'):
        _add(f'abs.{half}', 'b16', 'b16', 'a & 0x7fff')
        _add(f'neg.{half}', 'b16', 'b16', 'a ^ 0x8000')


def _comparisons() -> None:
    signs = {'eq': '==', 'ne': '!=', 'lt': '<', 'le': '<=', 'gt': '>', 'ge': '>='}
    for name, sign in signs.items():
        kinds = ['s16', 's32', 's64', 'u16', 'u32', 'u64']
        for kind in kinds + (['b16', 'b32', 'b64'] if name in ('eq', 'ne') else []):
            _add(f'setp.{name}.{kind}', 'pred', f'{kind} {kind}', f'a {sign} b')
        for kind in ('f16', 'bf16', 'f32'):  # false where one is NaN; with a 'u' true
            _add(f'setp.{name}.{kind}', 'pred', f'{kind} {kind}', f'!isunordered(a, b) && a {sign} b')
            _add(f'setp.{name}u.{kind}', 'pred', f'{kind} {kind}', f'isunordered(a, b) || a {sign} b')
    for kind in ('f16', 'bf16', 'f32'):
        _add(f'setp.nan.{kind}', 'pred', f'{kind} {kind}', 'isunordered(a, b)')
        _add(f'setp.num.{kind}', 'pred', f'{kind} {kind}', '!isunordered(a, b)')
    for kind in ('b16', 'b32', 'b64', 'f32', 'u16', 's16', 'u32', 's32', 'u64', 's64'):
        stored = f'b{kind[1:]}'
        _add(f'selp.{kind}', stored, f'{stored} {stored} pred', 'c ? a : b')


def _conversions() -> None:
    for to, of in product(
        ('s16', 'u16', 's32', 'u32', 's64', 'u64'), ('s8', 'u8', 's16', 'u16', 's32', 'u32', 's64', 'u64')
    ):
        _add(f'cvt.{to}.{of}', to, of, f'({TYPES[to].stored})a')
        # A source may be the lower bits of a wider register; such opcodes have its width in their names here.
        for width in (32, 64):
            if width > max(int(of[1:]), 16):
                sign = 'int' if of[0] == 's' else 'uint'
                _add(f'cvt.{to}.{of}/{width}', to, f'b{width}', f'({TYPES[to].stored})({sign}{of[1:]}_t)a')
    for half in ('f16', 'bf16'):
        rounded = f'to_{"half" if half == "f16" else "bfloat"}'
        _add(f'cvt.f32.{half}', 'f32', half, 'a')
        _add(f'cvt.rn.{half}.f32', half, 'f32', 'a')
        _add(f'cvt.rn.{half}x2.f32', 'b32', 'f32 f32', f'(uint32_t){rounded}(a) << 16 | {rounded}(b)')
    for kind in ('s32', 'u32', 's64', 'u64'):
        _add(f'cvt.rn.f32.{kind}', 'f32', kind, '(float)a')


def _moves() -> None:
    for kind in ('pred', 'b16', 'u16', 's16', 'b32', 'u32', 's32', 'f32', 'b64', 'u64', 's64', 'f64'):
        stored = kind if kind == 'pred' else f'b{kind[1:]}'
        _add(f'mov.{kind}', stored, stored, 'a')


_integers()
_floats()
_comparisons()
_conversions()
_moves()

# Bits of an element in memory, and of the registers that may hold it.
WIDTHS = {8: (16, 32, 64), 16: (16, 32, 64), 32: (32, 64), 64: (64,)}
MEMORY = {
    f'{way}_{space}_{bits}_{width}'
    for way, space in product(('ld', 'st'), ('global', 'shared'))
    for bits, widths in WIDTHS.items()
    for width in widths
}
MATRICES = {'ldmatrix', 'ldmatrix_trans', 'stmatrix', 'stmatrix_trans'}
SHUFFLES = {'shfl_up', 'shfl_down', 'shfl_bfly', 'shfl_idx'}
# mov between a register and a vector of narrower ones: how many, and bits of each.
PACKS = {'pack_2_16': (2, 16), 'pack_2_32': (2, 32), 'pack_4_16': (4, 16)}


def _arithmetic_function(name: str, opcode: Opcode) -> str:
    result = TYPES[opcode.result]
    lines = [
        f'static void {function_name(name)}(Machine *m, const Instruction *i) {{',
        f'{result.stored} *d = i->operand[0];',
    ]
    reads = []
    for place, (letter, kind) in enumerate(zip('abc', opcode.sources, strict=False), start=1):
        source = TYPES[kind]
        lines.append(f'const {source.stored} *{letter}_ = i->operand[{place}];')
        reads.append(f'{source.value} {letter} = {source.read.format(f"{letter}_[l]")};')
    body = f'{{ {" ".join(reads)} d[l] = {result.write.format(opcode.expression)}; }}'
    loop = 'for (int l = 0; l < m->threads; ++l)'
    lines.append(f'if (i->guard) {loop} {{ if (ACTIVE(i, l)) {body} }} else {loop} {body} }}')
    return '\n'.join(lines)


def _pack_functions(name: str, count: int, bits: int) -> str:
    whole, part = f'uint{count * bits}_t', f'uint{bits}_t'
    return f"""
static void {name}(Machine *m, const Instruction *i) {{
    for (int l = 0; l < m->threads; ++l) if (ACTIVE(i, l)) {{
        {whole} x = 0;
        for (int e = 0; e < {count}; ++e) x |= ({whole})((const {part} *)i->operand[1 + e])[l] << ({bits} * e);
        (({whole} *)i->operand[0])[l] = x;
    }}
}}
static void un{name}(Machine *m, const Instruction *i) {{
    const {whole} *from = i->operand[{count}];
    for (int l = 0; l < m->threads; ++l) if (ACTIVE(i, l)) {{
        {whole} x = from[l];
        for (int e = 0; e < {count}; ++e) (({part} *)i->operand[e])[l] = ({part})(x >> ({bits} * e));
    }}
}}"""


def function_name(opcode: str) -> str:
    """Return the name of the C function of an opcode of ``ARITHMETIC``."""
    return 'op_' + opcode.replace('.', '_').replace('/', '_of_')


OPERATIONS = [
    *map(function_name, ARITHMETIC),
    *sorted(MEMORY | MATRICES | SHUFFLES),
    *(prefix + name for name in PACKS for prefix in ('', 'un')),
]
"""Names of the C functions, in the order of their numbers."""


def source() -> str:
    """Return the C of the library: a function for each opcode, their table, and ``run``."""
    return '\n'.join(
        [
            '#include "machine.h"',
            *(_arithmetic_function(*item) for item in ARITHMETIC.items()),
            *(_pack_functions(name, *sizes) for name, sizes in PACKS.items()),
            f'static const Operation OPERATIONS[] = {{{", ".join(OPERATIONS)}}};',
            'int run(Machine *m) { return run_programs(m, OPERATIONS); }',
        ]
    )
