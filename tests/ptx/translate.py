"""From instructions of PTX to those of the machine: which function each calls, and the arrays that are its operands."""

import re
from collections.abc import Callable

import numpy as np

from ptx.opcodes import ARITHMETIC, MATRICES, MEMORY, OPERATIONS, TYPES, function_name
from ptx.parse import Instruction, Kernel, Unknown

BRANCH, RETURN, BARRIER, WARP_BARRIER = -1, -2, -3, -4
MOST_OPERANDS = 10
# As the struct in machine.h.
INSTRUCTION = np.dtype(
    [
        ('code', 'i4'),
        ('negated', 'i4'),
        ('count', 'i4'),
        ('unused', 'i4'),
        ('guard', 'u8'),
        ('number', 'i8'),
        ('operand', 'u8', (MOST_OPERANDS,)),
    ]
)
_BYTES = {'pred': 1, 'b16': 2, 'b32': 4, 'b64': 8}
_ARRAYS = {'pred': np.uint8, 'b16': np.uint16, 'b32': np.uint32, 'b64': np.uint64}
_NUMBERS = {name: number for number, name in enumerate(OPERATIONS)}
_ADDRESS = re.compile(r'^\[\s*(%?[\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]$')
_PARAMETER = re.compile(r'^ld\.param\.([busf])(16|32|64)$')
_MEMORY = re.compile(r'^(ld|st)\.(global|shared)(?:\.v([248]))?\.[bu](8|16|32|64)$')
_MATRIX = re.compile(r'^(ldmatrix|stmatrix)\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared\.b16$')
_SHUFFLE = re.compile(r'^shfl\.sync\.(up|down|bfly|idx)\.b32$')
_ALL_LANES = {'-1', '0xffffffff', '0xFFFFFFFF', '4294967295'}
# Special registers that do not change, of a number of threads.
_FIXED: dict[str, Callable[[int], np.ndarray | int]] = {
    '%tid.x': lambda threads: np.arange(threads),
    '%tid.y': lambda threads: 0,
    '%tid.z': lambda threads: 0,
    '%ntid.x': lambda threads: threads,
    '%laneid': lambda threads: np.arange(threads) % 32,
}


class Program:
    """A kernel as the machine runs it.

    Attributes:
        kernel: As parsed.
        code: Array of ``INSTRUCTION``.
        registers: Memory of all registers.
        program_id: Arrays of %ctaid.x, y and z.
        programs: Arrays of %nctaid.x, y and z.
        parameters: Array of each parameter by name.
    """

    def __init__(self, kernel: Kernel):
        """Translate a kernel.

        Args:
            kernel: To be run.

        Raises:
            Unknown: At an opcode, or an operand, that the emulator does not know.
        """
        if kernel.threads % 32 or not 0 < kernel.threads <= 1024:
            raise Unknown(f'{kernel.name}: {kernel.threads} threads; the emulator takes up to 32 whole warps')
        self.kernel = kernel
        self._constants: dict[tuple, np.ndarray] = {}
        self._places: dict[str, tuple[str, int]] = {}
        size = 0
        for prefix, (kind, count) in kernel.registers.items():
            for number in range(count):
                self._places[f'%{prefix}{number}'] = kind, size
                size += kernel.threads * _BYTES[kind]
            size += -size % 64
        self.registers = np.zeros(size + 64, np.uint8)
        self._base = self.registers.ctypes.data + -self.registers.ctypes.data % 64
        self.program_id = [self._array('b32') for _ in range(3)]
        self.programs = [self._array('b32') for _ in range(3)]
        self.parameters = {name: self._array(f'b{kind[1:]}') for name, kind in kernel.parameters.items()}
        self.code = np.zeros(len(kernel.instructions), INSTRUCTION)
        for place, instruction in enumerate(kernel.instructions):
            self._translate(self.code[place], instruction)

    @property
    def opcodes(self) -> set[str]:
        """All opcodes of the kernel."""
        return {instruction.opcode for instruction in self.kernel.instructions}

    def _array(self, kind: str, value: np.ndarray | int = 0) -> np.ndarray:
        array = np.empty(self.kernel.threads, _ARRAYS[kind])
        array[:] = value
        return array

    def _translate(self, code: np.void, instruction: Instruction) -> None:
        try:
            self._guard(code, instruction)
            for translate in (self._control, self._memory, self._lanes, self._vector, self._arithmetic):
                if translate(code, instruction):
                    return
        except Unknown as error:
            raise Unknown(f'line {instruction.line} ({instruction.source}), {instruction}: {error}') from None
        raise Unknown(f'line {instruction.line} ({instruction.source}): unknown opcode {instruction.opcode!r}')

    def _guard(self, code: np.void, instruction: Instruction) -> None:
        if instruction.guard:
            code['guard'] = self._source(f'%{instruction.guard}', 'pred')
            code['negated'] = instruction.negated

    def _set(self, code: np.void, name: str, operands: list[int], count: int = 0, number: int = 0) -> bool:
        if len(operands) > MOST_OPERANDS:
            raise Unknown(f'{len(operands)} operands; there are {MOST_OPERANDS} at most')
        code['code'], code['count'], code['number'] = _NUMBERS[name], count, number
        code['operand'][: len(operands)] = operands
        return True

    def _control(self, code: np.void, instruction: Instruction) -> bool:
        opcode, operands = instruction.opcode, instruction.operands
        if opcode in ('bra', 'bra.uni'):
            if operands[0] not in self.kernel.labels:
                raise Unknown('no such label')
            code['code'], code['number'] = BRANCH, self.kernel.labels[operands[0]]
        elif opcode == 'ret':
            code['code'] = RETURN
        elif (opcode, operands) == ('bar.sync', ('0',)) and not instruction.guard:
            code['code'] = BARRIER
        elif opcode == 'bar.warp.sync' and operands[0] in _ALL_LANES and not instruction.guard:
            code['code'] = WARP_BARRIER
        else:
            return False
        return True

    def _memory(self, code: np.void, instruction: Instruction) -> bool:
        opcode, operands = instruction.opcode, instruction.operands
        if found := _PARAMETER.match(opcode):
            address, number = self._address(operands[1])
            kind, register = f'b{found[2]}', self._places.get(operands[0], ('',))[0]
            if address not in self.parameters or number or self.kernel.parameters[address][1:] != found[2]:
                raise Unknown('not a whole parameter')
            name = f'mov.{kind}'
            if register != kind and found[1] in 'su':  # a wider register gets the same number
                name, kind = f'cvt.{found[1]}{register[1:]}.{found[1]}{found[2]}', register
            if name not in ARITHMETIC:
                raise Unknown(f'{operands[0]} is {register}')
            return self._set(
                code, function_name(name), [self._target(operands[0], kind), self.parameters[address].ctypes.data]
            )
        found = _MEMORY.match(opcode)
        if not found:
            return False
        way, space, count, bits = found.groups()
        value, address = operands if way == 'ld' else operands[::-1]
        names = _elements(value)
        if len(names) != int(count or 1):
            raise Unknown('a vector of another length')
        # The registers' own width; constants have the element's.
        kind = next((self._places[x][0] for x in names if x in self._places), f'b{max(int(bits), 16)}')
        if f'{way}_{space}_{bits}_{kind[1:]}' not in MEMORY:
            raise Unknown(f'{value} is {kind}')
        arrays = [self._target(x, kind) if way == 'ld' else self._source(x, kind) for x in names]
        register, number = self._address(address)
        base = self._source(register, 'b64' if space == 'global' else 'b32')
        return self._set(code, f'{way}_{space}_{bits}_{kind[1:]}', [*arrays, base], len(arrays), number)

    def _lanes(self, code: np.void, instruction: Instruction) -> bool:
        opcode, operands = instruction.opcode, instruction.operands
        matrix, shuffle = _MATRIX.match(opcode), _SHUFFLE.match(opcode)
        if (matrix or shuffle) and instruction.guard:
            raise Unknown('not by all lanes')
        if matrix:
            loads = matrix[1] == 'ldmatrix'
            value, address = operands if loads else operands[::-1]
            names = _elements(value)
            if len(names) != int(matrix[2]):
                raise Unknown('a vector of another length')
            arrays = [self._target(x, 'b32') if loads else self._source(x, 'b32') for x in names]
            register, number = self._address(address)
            name = matrix[1] + ('_trans' if matrix[3] else '')
            assert name in MATRICES
            return self._set(code, name, [*arrays, self._source(register, 'b32')], len(names), number)
        if shuffle:
            if len(operands) != 5 or operands[4] not in _ALL_LANES:
                raise Unknown('not by all lanes')
            sources = [self._source(x, 'b32') for x in operands[1:4]]
            return self._set(code, f'shfl_{shuffle[1]}', [self._target(operands[0], 'b32'), *sources])
        return False

    def _vector(self, code: np.void, instruction: Instruction) -> bool:
        """Move between a register and a vector of narrower ones."""
        opcode, operands = instruction.opcode, instruction.operands
        if not (re.match(r'^mov\.b(32|64)$', opcode) and '{' in ''.join(operands)):
            return False
        packs = operands[1].startswith('{')
        parts, whole = _elements(operands[packs]), operands[not packs]
        bits, kind = int(opcode[5:]) // len(parts), opcode[4:]
        name = f'{"" if packs else "un"}pack_{len(parts)}_{bits}'
        if name not in _NUMBERS:
            raise Unknown('a vector of another length')
        if packs:
            arrays = [self._target(whole, kind), *(self._source(x, f'b{bits}') for x in parts)]
        else:
            arrays = [*(self._target(x, f'b{bits}') for x in parts), self._source(whole, kind)]
        return self._set(code, name, arrays)

    def _arithmetic(self, code: np.void, instruction: Instruction) -> bool:
        opcode = instruction.opcode
        if opcode.startswith('cvt.') and instruction.operands[-1] in self._places:
            wider = f'{opcode}/{self._places[instruction.operands[-1]][0][1:]}'
            opcode = wider if wider in ARITHMETIC else opcode
        several = f'{opcode}/{len(instruction.operands) - 1}'
        opcode = several if several in ARITHMETIC else opcode
        known = ARITHMETIC.get(opcode)
        if known is None:
            return False
        if len(instruction.operands) != 1 + len(known.sources):
            raise Unknown(f'{len(known.sources)} sources expected')
        target, *sources = instruction.operands
        arrays = [self._target(target, TYPES[known.result].register)]
        for name, kind in zip(sources, known.sources, strict=True):
            if kind in ('f32', 'f64') and name[0] not in '%0':
                raise Unknown(f'{name} is no constant of {kind}')
            arrays.append(self._source(name, TYPES[kind].register))
        return self._set(code, function_name(opcode), arrays)

    def _address(self, text: str) -> tuple[str, int]:
        found = _ADDRESS.match(text)
        if not found:
            raise Unknown(f'address {text}')
        return found[1], int(found[2] or 0)

    def _target(self, name: str, kind: str) -> int:
        """Return the address of the array that an instruction writes."""
        if name == '_':
            return self._constant(kind, 'sink', 0)
        return self._register(name, kind)

    def _source(self, name: str, kind: str) -> int:
        """Return the address of the array that an instruction reads."""
        if name in self._places:
            return self._register(name, kind)
        if name in _FIXED:
            return self._constant(_must_be(kind, 'b32', name), name, _FIXED[name](self.kernel.threads))
        special = re.match(r'^%(ctaid|nctaid)\.([xyz])$', name)
        if special:
            arrays = self.program_id if special[1] == 'ctaid' else self.programs
            _must_be(kind, 'b32', name)
            return arrays['xyz'.index(special[2])].ctypes.data
        if name == self.kernel.shared:
            return self._constant(kind, name, 0)
        return self._constant(kind, name, _literal(name, kind))

    def _register(self, name: str, kind: str) -> int:
        if name not in self._places:
            raise Unknown(f'no register {name}')
        found, offset = self._places[name]
        _must_be(kind, found, name)
        return self._base + offset

    def _constant(self, kind: str, name: str, value: np.ndarray | int) -> int:
        key = kind, name
        if key not in self._constants:
            self._constants[key] = self._array(kind, value)
        return self._constants[key].ctypes.data


def _elements(text: str) -> list[str]:
    """Return the registers of a vector in braces, or the one register."""
    return [x.strip() for x in text.strip('{} ').split(',')]


def _must_be(expected: str, found: str, name: str) -> str:
    if expected != found:
        raise Unknown(f'{name} is {found}, where the opcode takes {expected}')
    return expected


def _literal(text: str, kind: str) -> int:
    """Return the bits of a constant."""
    if kind == 'pred':
        if re.fullmatch(r'-?\d+', text):
            return int(int(text) != 0)
    elif (kind, text[:2]) in (('b32', '0f'), ('b64', '0d')):
        return int(text[2:], 16)
    elif re.fullmatch(r'-?(0|[1-9]\d*|0x[0-9a-fA-F]+)U?', text):
        bits = 8 * _BYTES[kind]
        value = int(text.rstrip('U'), 0)
        if not -(1 << bits - 1) <= value < 1 << bits:
            raise Unknown(f'{text} has more than {bits} bits')
        return value % (1 << bits)
    raise Unknown(f'operand {text}')
