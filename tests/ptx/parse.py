"""From the text of PTX, as Triton compiles it, to a list of instructions.

Read are one kernel's parameters, its registers and its statements, the subset of PTX that LLVM and Triton's own inline
assembly write. What is not understood is an error that names the line.
"""

import re
from dataclasses import dataclass, field

_ENTRY = re.compile(r'^\.visible \.entry (?P<name>[\w$]+)\(\n(?P<parameters>.*?)\)(?P<directives>[^{]*)\{', re.S | re.M)
_PARAMETER = re.compile(r'\.param \.([busf](?:16|32|64))(?: \.ptr(?: \.\w+)?(?: \.align \d+)?)? ([\w$]+)')
_REGISTERS = re.compile(r'\.reg \.(\w+)\s+%([a-zA-Z]+)<(\d+)>')
_SHARED = re.compile(r'^\.extern \.shared \.align \d+ \.b8 ([\w$]+)\[\];', re.M)
_LABEL = re.compile(r'^([\w$]+):\s*')
_STATEMENT = re.compile(
    r'^(?:@(?P<negated>!?)%(?P<guard>\w+)\s+)?(?P<opcode>[a-z][\w.:]*)(?:\s+(?P<operands>.*))?$', re.S
)
_IGNORED = re.compile(r'\.(loc|pragma)\b')
_WIDTHS = {'pred': 'pred', 'b16': 'b16', 'b32': 'b32', 'b64': 'b64', 'f32': 'b32', 'f64': 'b64'}


class Unknown(Exception):
    """PTX that the emulator does not know; it never guesses."""


@dataclass(frozen=True)
class Instruction:
    """One statement.

    Attributes:
        opcode: With all its modifiers, 'ld.global.v2.b32'.
        operands: As written; vectors keep their braces, addresses their brackets.
        guard: Predicate register without its '%' that must hold in a thread, or None.
        negated: Whether the predicate must not hold instead.
        line: Line of the text, from 1.
        source: Line of the Triton source, 'tiles.py:150', and where that is called; '' if the text does not say.
    """

    opcode: str
    operands: tuple[str, ...]
    guard: str | None = None
    negated: bool = False
    line: int = 0
    source: str = ''


@dataclass
class Kernel:
    """One kernel.

    Attributes:
        name: Of the entry.
        threads: Threads of a program.
        parameters: Type ('u64', 'u32', 'f32') of each parameter by name, in order.
        registers: Type ('pred', 'b16', 'b32', 'b64') and number of the registers of each prefix.
        shared: Name of the array of shared memory, or None.
        instructions: In order.
        labels: Number of the instruction that follows each label.
    """

    name: str
    threads: int
    parameters: dict[str, str]
    registers: dict[str, tuple[str, int]]
    shared: str | None
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> Kernel:
    """Return the kernel of a text that has one.

    Args:
        text: PTX.

    Raises:
        Unknown: If there is a statement that is none of PTX's instructions in form, or not one kernel with a fixed
            number of threads in one dimension.
    """
    entries = list(_ENTRY.finditer(text))
    if len(entries) != 1:
        raise Unknown(f'{len(entries)} kernels in one text; the emulator takes one')
    entry = entries[0]
    threads = re.search(r'\.reqntid (\d+)(?:, 1, 1)?\s*$', entry['directives'], re.M)
    if threads is None:
        raise Unknown(f'{entry["name"]}: no number of threads (.reqntid) in {entry["directives"]!r}')
    shared = _SHARED.findall(text)
    kernel = Kernel(
        entry['name'],
        int(threads[1]),
        {name: kind for kind, name in _PARAMETER.findall(entry['parameters'])},
        {},
        shared[0] if shared else None,
    )
    if len(kernel.parameters) != entry['parameters'].count('.param'):
        raise Unknown(f'{kernel.name}: a parameter that is no number or pointer in {entry["parameters"]!r}')
    _parse_body(kernel, text[entry.end() :], 1 + text.count('\n', 0, entry.end()))
    return kernel


def _parse_body(kernel: Kernel, text: str, first: int) -> None:
    """Add the registers, instructions and labels between a kernel's braces."""
    source = ''
    for number, raw in enumerate(text.split('\n'), start=first):
        if raw.startswith('}'):
            return
        code, _, comment = raw.partition('//')
        code = code.strip()
        if re.match(r'\.loc\b', code):
            source = brief_source(comment)
        while label := _LABEL.match(code):
            kernel.labels[label[1]] = len(kernel.instructions)
            code = code[label.end() :]
        if code.startswith('.reg'):
            found = _REGISTERS.match(code)
            if found is None or found[1] not in _WIDTHS:
                raise Unknown(f'line {number}: registers {code!r}')
            kernel.registers[found[2]] = _WIDTHS[found[1]], int(found[3])
        elif not _IGNORED.match(code):
            kernel.instructions += [_parse_statement(x.strip(), number, source) for x in code.split(';') if x.strip()]
    raise Unknown(f'{kernel.name}: no end')


def _parse_statement(text: str, number: int, source: str) -> Instruction:
    found = _STATEMENT.match(text)
    if found is None:
        raise Unknown(f'line {number}: {text!r}')
    operands = split_operands(found['operands'] or '')
    # Triton 3.8 writes out what is meant without it: the shared memory of this block, not of its cluster.
    opcode = found['opcode'].replace('.shared::cta', '.shared')
    return Instruction(opcode, operands, found['guard'], bool(found['negated']), number, source)


def split_operands(text: str) -> tuple[str, ...]:
    """Split operands at the commas outside of braces and brackets."""
    pieces = re.split(r',(?![^{\[]*[}\]])', text)
    return tuple(piece.strip() for piece in pieces if piece.strip())


def brief_source(comment: str) -> str:
    """Return 'tiles.py:150 in backward.py:132' of the comment with which LLVM explains a .loc."""
    return ' in '.join(re.findall(r'([\w.]+:\d+):\d+', comment))
