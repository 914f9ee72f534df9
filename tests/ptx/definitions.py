"""What each opcode of ``opcodes.ARITHMETIC`` computes, once more: in Python, with integers and exact fractions.

The source is NVIDIA's "Parallel Thread Execution ISA". ``DEFINITIONS`` gives the type of an opcode's result, those of
its sources, and a function of numbers: signed for 's', bits for 'b', floats for 'f16', 'bf16' and 'f32', truth for
'pred'.
"""

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from typing import NamedTuple

import numpy as np

# Of a format: bits of the significand, least and largest exponent.
FORMATS = {'f16': (11, -14, 15), 'bf16': (8, -126, 127), 'f32': (24, -126, 127)}
SMALLEST_NORMAL = 2.0**-126


class Definition(NamedTuple):
    """One opcode.

    Attributes:
        result: Type.
        sources: Types.
        function: Of as many numbers.
        approximate: Whether PTX leaves the last bits open.
    """

    result: str
    sources: tuple[str, ...]
    function: Callable
    approximate: bool = False


DEFINITIONS: dict[str, Definition] = {}


def _define(names: str, result: str, sources: str, function: Callable, approximate: bool = False) -> None:
    for name in names.split():
        DEFINITIONS[name] = Definition(result, tuple(sources.split()), function, approximate)


def rounded(x: Fraction, kind: str) -> float:
    """Return the number of a format that is nearest to a fraction, ties to even."""
    bits, least, largest = FORMATS[kind]
    if x == 0:
        return 0.0
    exponent = max(math.floor(math.log2(abs(x.numerator)) - math.log2(x.denominator)), least)
    while exponent > least and abs(x) < Fraction(2) ** exponent:
        exponent -= 1
    while abs(x) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    step = Fraction(2) ** (exponent - bits + 1)
    result = round(x / step) * step  # Python rounds ties to even, too
    if abs(result) >= Fraction(2) ** (largest + 1):
        return math.copysign(math.inf, x)
    return float(result)


def to_format(x: float, kind: str) -> float:
    """Round a float to a format, whatever it is."""
    if not math.isfinite(x) or x == 0:
        return x
    return math.copysign(rounded(Fraction(x), kind), x)


def _exact(function: Callable) -> Callable:
    """Take an expression of sums and products without rounding, and round the result to float32 once."""

    def compute(*values: float) -> float:
        if not all(map(math.isfinite, values)):
            with np.errstate(all='ignore'):
                return float(function(*map(np.float64, values)))
        exact = function(*map(Fraction, values))
        if exact != 0:
            return math.copysign(rounded(exact, 'f32'), exact)
        # The sign of a zero: as the same sum of ones and zeros has it.
        return float(function(*(np.float64(math.copysign(min(abs(x), 1.0), x)) for x in values)))

    return compute


def _flush(x: float) -> float:
    return math.copysign(0.0, x) if abs(x) < SMALLEST_NORMAL else x


def _root(x: float) -> float:
    return x if x == 0 else math.nan if x < 0 else math.sqrt(x)


def _inverse(x: float) -> float:
    return math.copysign(math.inf, x) if x == 0 else 1 / x


def _quotient(a: float, b: float) -> float:
    if math.isfinite(a) and math.isfinite(b) and a != 0 and b != 0:
        exact = Fraction(a) / Fraction(b)
        return math.copysign(rounded(exact, 'f32'), exact)
    with np.errstate(all='ignore'):
        return float(np.float64(a) / np.float64(b))


def _power(x: float) -> float:
    return math.inf if x > 200 else 0.0 if x < -200 else 2**x if x == x else x


def _logarithm(x: float) -> float:
    return -math.inf if x == 0 else math.nan if x < 0 else math.log2(x) if math.isfinite(x) else x


def _larger(a: float, b: float) -> float:
    if a != a or b != b:
        return b if a != a else a
    return max((a, math.copysign(1, a)), (b, math.copysign(1, b)))[0]


def _smaller(a: float, b: float) -> float:
    return -_larger(-a, -b) if a == a or b == b else math.nan


def _nan(a: float, b: float) -> bool:
    return a != a or b != b


def _all_or_nan(choose: Callable, *values: float) -> float:
    return math.nan if any(x != x for x in values) else choose(choose(*values[:2]), values[2])


def _field(signed: bool) -> Callable:
    def compute(x: int, start: int, length: int) -> int:
        """Return the bits one by one; beyond the number and beyond the field is the sign, the field's highest bit."""
        start, length = start & 255, length & 255
        sign = (x >> min(start + length - 1, 31)) & 1 if signed and length else 0
        bits = ((x >> (start + k)) & 1 if k < length and start + k <= 31 else sign for k in range(32))
        return sum(bit << k for k, bit in enumerate(bits))

    return compute


def _permute(a: int, b: int, selector: int) -> int:
    both = [*a.to_bytes(4, 'little'), *b.to_bytes(4, 'little')]
    chosen = [(both[(selector >> 4 * k) & 7], (selector >> 4 * k) & 8) for k in range(4)]
    return int.from_bytes(bytes((255 if x & 128 else 0) if sign else x for x, sign in chosen), 'little')


def bits_of(x: float) -> int:
    """Return the bits of a float32."""
    return int(np.float32(x).view(np.uint32))


def of_bits(x: int) -> float:
    """Return the float32 of some bits."""
    return float(np.uint32(x).view(np.float32))


def _both(function: Callable) -> Callable:
    """Apply a function of floats to both halves of packed pairs."""

    def compute(*pairs: int) -> int:
        low, high = (function(*(of_bits((x >> shift) & 0xFFFFFFFF) for x in pairs)) for shift in (0, 32))
        return bits_of(low) | bits_of(high) << 32

    return compute


def _half_bits(kind: str) -> Callable:
    def compute(x: float) -> int:
        if x != x:
            return 0x7FFF
        if kind == 'bf16':
            return bits_of(to_format(x, 'bf16')) >> 16
        with np.errstate(over='ignore'):
            return int(np.float16(to_format(x, 'f16')).view(np.uint16))

    return compute


def _integers() -> None:
    for bits in (16, 32, 64):
        for sign in 'us':
            n = f'{sign}{bits}'
            _define(f'add.{n}', n, f'{n} {n}', operator.add)
            _define(f'sub.{n}', n, f'{n} {n}', operator.sub)
            _define(f'mul.lo.{n}', n, f'{n} {n}', operator.mul)
            _define(f'mad.lo.{n}', n, f'{n} {n} {n}', lambda a, b, c: a * b + c)
            _define(f'min.{n}', n, f'{n} {n}', min)
            _define(f'max.{n}', n, f'{n} {n}', max)
            _define(f'shr.{n}', n, f'{n} u32', lambda a, b: a >> min(b, 64))
            for kind, test in _TESTS.items():
                _define(f'setp.{kind}.{n}', 'pred', f'{n} {n}', test)
        _define(f'neg.s{bits}', f's{bits}', f's{bits}', operator.neg)
        _define(f'abs.s{bits}', f's{bits}', f's{bits}', abs)
        _define(f'shl.b{bits}', f'b{bits}', f'b{bits} u32', lambda a, b: a << min(b, 64))
    for sign, bits in product('us', (16, 32)):
        n, wide = f'{sign}{bits}', f'{sign}{2 * bits}'
        _define(f'mul.wide.{n}', wide, f'{n} {n}', operator.mul)
        _define(f'mad.wide.{n}', wide, f'{n} {n} {wide}', lambda a, b, c: a * b + c)
    for sign, bits in product('us', (32, 64)):
        n = f'{sign}{bits}'
        _define(f'mul.hi.{n}', n, f'{n} {n}', lambda a, b, bits=bits: (a * b) >> bits)
        _define(f'div.{n}', n, f'{n} {n}', _divide)
        _define(f'rem.{n}', n, f'{n} {n}', lambda a, b: a - _divide(a, b) * b)
    for kind in ('pred', 'b16', 'b32', 'b64'):
        _define(f'and.{kind}', kind, f'{kind} {kind}', operator.and_)
        _define(f'or.{kind}', kind, f'{kind} {kind}', operator.or_)
        _define(f'xor.{kind}', kind, f'{kind} {kind}', operator.xor)
        _define(f'not.{kind}', kind, kind, operator.not_ if kind == 'pred' else operator.invert)
    _define('bfe.u32', 'b32', 'b32 u32 u32', _field(False))
    _define('bfe.s32', 'b32', 'b32 u32 u32', _field(True))
    _define('prmt.b32', 'b32', 'b32 b32 b32', _permute)


def _lower_bits(a: int, kind: str) -> int:
    bits = int(kind[1:])
    a %= 1 << bits
    return a - (1 << bits) if kind[0] == 's' and a >> (bits - 1) else a


def _divide(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


_TESTS = {
    'eq': operator.eq,
    'ne': operator.ne,
    'lt': operator.lt,
    'le': operator.le,
    'gt': operator.gt,
    'ge': operator.ge,
}


def _floats() -> None:
    for name, function in (('add', operator.add), ('sub', operator.sub), ('mul', operator.mul)):
        _define(f'{name}.f32 {name}.rn.f32', 'f32', 'f32 f32', _exact(function))
        _define(f'{name}.f32x2 {name}.rn.f32x2', 'b64', 'b64 b64', _both(_exact(function)))
    fused = _exact(lambda a, b, c: a * b + c)
    _define('fma.rn.f32', 'f32', 'f32 f32 f32', fused)
    _define('fma.rn.f32x2', 'b64', 'b64 b64 b64', _both(fused))
    for half in ('f16', 'bf16'):
        _define(f'add.rn.f32.{half}', 'f32', f'{half} f32', _exact(operator.add))
        _define(f'sub.rn.f32.{half}', 'f32', f'{half} f32', _exact(operator.sub))
        _define(f'fma.rn.f32.{half}', 'f32', f'{half} {half} f32', fused)
        _define(f'abs.{half}', 'b16', 'b16', lambda a: a & 0x7FFF)
        _define(f'neg.{half}', 'b16', 'b16', lambda a: a ^ 0x8000)
        _define(f'cvt.f32.{half}', 'f32', half, lambda a: a)
        _define(f'cvt.rn.{half}.f32', half, 'f32', lambda a, half=half: to_format(a, half))
        pack = _half_bits(half)
        _define(f'cvt.rn.{half}x2.f32', 'b32', 'f32 f32', lambda a, b, pack=pack: pack(a) << 16 | pack(b))
    _define('div.rn.f32', 'f32', 'f32 f32', _quotient)
    _define('div.full.f32 div.approx.f32', 'f32', 'f32 f32', _quotient, True)
    _define('sqrt.rn.f32', 'f32', 'f32', _root)
    _define('rcp.rn.f32', 'f32', 'f32', lambda a: _quotient(1.0, a))
    _define('sqrt.approx.ftz.f32', 'f32', 'f32', lambda a: _root(_flush(a)), True)
    _define('rcp.approx.ftz.f32', 'f32', 'f32', lambda a: _flush(_inverse(_flush(a))), True)
    _define('rsqrt.approx.f32', 'f32', 'f32', lambda a: _inverse(_root(a)), True)
    _define('rsqrt.approx.ftz.f32', 'f32', 'f32', lambda a: _inverse(_root(_flush(a))), True)
    _define('ex2.approx.f32', 'f32', 'f32', _power, True)
    _define('ex2.approx.ftz.f32', 'f32', 'f32', lambda a: _flush(to_format(_power(_flush(a)), 'f32')), True)
    _define('lg2.approx.f32', 'f32', 'f32', _logarithm, True)
    _define('lg2.approx.ftz.f32', 'f32', 'f32', lambda a: _logarithm(_flush(a)), True)
    _define('abs.f32', 'f32', 'f32', abs)
    _define('neg.f32', 'f32', 'f32', operator.neg)
    _define('min.f32', 'f32', 'f32 f32', _smaller)
    _define('max.f32', 'f32', 'f32 f32', _larger)
    _define('min.NaN.f32', 'f32', 'f32 f32', lambda a, b: math.nan if _nan(a, b) else _smaller(a, b))
    _define('max.NaN.f32', 'f32', 'f32 f32', lambda a, b: math.nan if _nan(a, b) else _larger(a, b))
    for name, choose in (('min', _smaller), ('max', _larger)):
        _define(f'{name}.f32/3', 'f32', 'f32 f32 f32', lambda a, b, c, f=choose: f(f(a, b), c))
        _define(f'{name}.NaN.f32/3', 'f32', 'f32 f32 f32', lambda *x, f=choose: _all_or_nan(f, *x))
    for kind in ('f16', 'bf16', 'f32'):
        for name, test in _TESTS.items():
            _define(f'setp.{name}.{kind}', 'pred', f'{kind} {kind}', lambda a, b, t=test: not _nan(a, b) and t(a, b))
            _define(f'setp.{name}u.{kind}', 'pred', f'{kind} {kind}', lambda a, b, t=test: _nan(a, b) or t(a, b))
        _define(f'setp.nan.{kind}', 'pred', f'{kind} {kind}', _nan)
        _define(f'setp.num.{kind}', 'pred', f'{kind} {kind}', lambda a, b: not _nan(a, b))


def _rest() -> None:
    for bits in (16, 32, 64):
        _define(f'setp.eq.b{bits}', 'pred', f'b{bits} b{bits}', operator.eq)
        _define(f'setp.ne.b{bits}', 'pred', f'b{bits} b{bits}', operator.ne)
        for kind in 'bsu':
            n = f'{kind}{bits}'
            _define(f'selp.{n}', n, f'{n} {n} pred', lambda a, b, c: a if c else b)
            _define(f'mov.{n}', n, n, lambda a: a)
    _define('selp.f32', 'b32', 'b32 b32 pred', lambda a, b, c: a if c else b)
    _define('mov.f32', 'b32', 'b32', lambda a: a)
    _define('mov.f64', 'b64', 'b64', lambda a: a)
    _define('mov.pred', 'pred', 'pred', bool)
    integers = [f'{sign}{bits}' for sign in 'us' for bits in (16, 32, 64)]
    for to, of in product(integers, ['u8', 's8', *integers]):
        _define(f'cvt.{to}.{of}', to, of, lambda a: a)
        for width in (32, 64):
            if width > max(int(of[1:]), 16):  # of a wider register
                _define(f'cvt.{to}.{of}/{width}', to, f'b{width}', lambda a, of=of: _lower_bits(a, of))
    for of in ('s32', 'u32', 's64', 'u64'):
        _define(f'cvt.rn.f32.{of}', 'f32', of, lambda a: rounded(Fraction(a), 'f32'))


_integers()
_floats()
_rest()
