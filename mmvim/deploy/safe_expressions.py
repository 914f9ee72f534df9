"""Which of the texts in an exported program PyTorch may evaluate: sizes and guards, which it gives to ``eval``."""

import ast
import re

_SYMBOL = re.compile(r'[A-Za-z_]\w{0,31}', re.ASCII)
# SymPy's classes and PyTorch's own functions of sizes (torch/utils/_sympy/functions.py).
_FUNCTIONS = frozenset(
    (
        *('Add', 'Mul', 'Pow', 'Integer', 'Rational', 'Float', 'Symbol', 'Max', 'Min', 'Mod', 'Abs', 'sqrt', 'floor'),
        *('ceiling', 'And', 'Or', 'Not', 'Eq', 'Ne', 'Lt', 'Le', 'Gt', 'Ge', 'Equality', 'Unequality'),
        *('StrictLessThan', 'LessThan', 'StrictGreaterThan', 'GreaterThan', 'FloorDiv', 'ModularIndexing', 'Where'),
        *('PythonMod', 'CleanDiv', 'CeilDiv', 'CeilToInt', 'FloorToInt', 'TruncToInt', 'TruncToFloat', 'RoundToInt'),
        *('RoundDecimal', 'ToFloat', 'IntTrueDiv', 'FloatTrueDiv', 'PowByNatural', 'FloatPow', 'Identity', 'LShift'),
        *('RShift', 'BitwiseFn_bitwise_and', 'BitwiseFn_bitwise_or', 'log', 'IsNonOverlappingAndDenseIndicator'),
    )
)
_POWERS = ('Pow', 'PowByNatural', 'LShift', 'FloatPow')
_PLAIN = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
# What a guard may ask of a tensor, and which functions of `math` it may call.
_OF_TENSORS = frozenset(('size', 'stride', 'storage_offset', 'ndim', 'shape', 'dtype', 'device', 'dim', 'numel'))
_OF_MATH = frozenset(('isnan', 'inf', 'nan', 'floor', 'ceil', 'trunc', 'sqrt'))
# No line ends, backslashes, hashes and double quotes: SymPy drops the first of these before it parses, which moves the
# ends of texts, and PyTorch puts guards between double quotes.
_CHARACTERS = re.compile(r"[\w .,()\[\]'+\-*/%<>=!&|~]*", re.ASCII)
_LONGEST = 20_000  # characters, and
_LARGEST = 1 << 63  # numbers
_NUMBER = re.compile(r'-?[\d.]+(e[+-]?\d+)?', re.ASCII)
_OF_GUARDS = frozenset(('max', 'min', 'Max', 'Min', 'Eq', 'Ne', 'Mod', 'PythonMod', 'FloorDiv'))


def is_size(text: str) -> bool:
    """Say whether a text is arithmetic of sizes and no other code.

    Args:
        text: Such as ``s0 // 16 + 1`` or ``Add(Integer(1), Symbol('s0', positive=True))``.

    Examples:
        >>> from mmvim.deploy.safe_expressions import is_size
        >>> is_size("Add(Integer(1), FloorDiv(Symbol('s0', integer=True), Integer(16)))")
        True
        >>> is_size("__import__('os').system('id')")
        False
    """
    tree = _parse(text)
    return tree is not None and all(_is_size_node(node) for node in _nodes(tree))


def is_guard(text: str) -> bool:
    """Say whether a text compares sizes and kinds of inputs and is no other code.

    Args:
        text: Such as ``L['x'].size()[0] >= 2``.

    Examples:
        >>> from mmvim.deploy.safe_expressions import is_guard
        >>> is_guard("L['args'][0].size()[0] >= 2"), is_guard("L['x'].__class__")
        (True, False)
    """
    tree = _parse(text)
    return tree is not None and all(_is_guard_node(node) for node in _nodes(tree))


def _parse(text: str) -> ast.AST | None:
    if not isinstance(text, str) or len(text) > _LONGEST or not _CHARACTERS.fullmatch(text):
        return None
    try:
        return ast.parse(text.strip(), mode='eval')
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _nodes(tree: ast.AST) -> list[ast.AST]:
    """Return all nodes but the names of functions and texts of symbols, which their calls have answered for."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        found.append(node)
        if isinstance(node, ast.Call):
            waiting += node.keywords
            waiting += () if _is_plain_text(node) else node.args
            waiting += () if isinstance(node.func, ast.Name) else (node.func,)
        else:
            waiting += ast.iter_child_nodes(node)
    return found


def _is_plain_text(node: ast.Call) -> bool:
    match node:
        case ast.Call(func=ast.Name(id='Symbol'), args=[ast.Constant(value=str(name))]):
            return _SYMBOL.fullmatch(name) is not None
        case ast.Call(func=ast.Name(id='Float'), args=[ast.Constant(value=str(number))]):
            return _NUMBER.fullmatch(number) is not None
    return False


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < _LARGEST)


def _is_small(node: ast.AST) -> bool:
    """Say whether an exponent is a small number: SymPy computes powers of numbers, however large."""
    match node:
        case ast.UnaryOp(operand=operand):
            return _is_small(operand)
        case ast.Call(func=ast.Name(id='Rational'), args=[above, below]):
            return _is_small(above) and _is_small(below)
        case ast.Call(func=ast.Name(id='Integer'), args=[operand]):
            return _is_small(operand)
        case ast.Constant(value=int(value)):
            return value <= 64
    return False


def _has_power(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(op=ast.Pow() | ast.LShift()):
                return True
            case ast.Call(func=ast.Name(id=name)) if name in _POWERS:
                return True
    return False


def _is_size_node(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name), args=arguments):
            if name in _POWERS and not (
                len(arguments) == 2 and _is_small(arguments[1]) and not _has_power(arguments[0])
            ):
                return False
            return name in _FUNCTIONS
        case ast.keyword(arg=str(name), value=ast.Constant(value=bool())):
            return _SYMBOL.fullmatch(name) is not None
        case ast.keyword(arg='precision', value=ast.Constant(value=int(value))):
            return value <= 64
        case ast.Constant(value=value):
            return _is_number(value)
        case ast.Name(id=name):
            return _SYMBOL.fullmatch(name) is not None and '__' not in name
        case ast.BinOp(left=left, op=ast.Pow() | ast.LShift(), right=right):
            return _is_small(right) and not _has_power(left)
    return isinstance(node, _PLAIN)


def _is_guard_node(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return name in _OF_GUARDS
        case ast.Call(func=ast.Attribute(attr=name)):
            return name in _OF_TENSORS or name in _OF_MATH
        case ast.Attribute(value=ast.Name(id='math'), attr=name):
            return name in _OF_MATH
        case ast.Attribute(value=ast.Name(id='torch'), attr=name):
            return name in ('float16', 'bfloat16', 'float32', 'float64', 'int32', 'int64', 'bool')
        case ast.Attribute(attr=name):
            return name in _OF_TENSORS
        case ast.Subscript(slice=ast.Constant()):
            return True
        case ast.Constant(value=value):
            return _is_number(value) or (isinstance(value, str) and _SYMBOL.fullmatch(value) is not None)
        case ast.Name(id=name):
            return name in ('L', 'math', 'torch')
    return isinstance(node, _PLAIN)
