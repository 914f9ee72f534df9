"""Look at an exported program before PyTorch loads it, which would run what a hostile one brings.

``torch.export.load`` unpickles objects, loads compiled libraries, evaluates sizes as Python, and writes the names of
inputs and nodes into code that it runs (tests/test_deploy/test_hostile_programs.py). Operators may open files, and not
every PyTorch refuses calls of other functions. Here all of this is compared with what ``mmvim export`` writes.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

from mmvim.deploy.errors import DeployError
from mmvim.deploy.safe_expressions import is_guard, is_size

# Operators of the dispatcher compute; those that open files are left out below.
_OPERATOR = re.compile(r'torch\.ops\.(aten|prims|mmvim)\.(__(?:and|or|xor|lshift|rshift)__|(?!__)\w+)\.((?!__)\w+)')
_OF_SIZES = re.compile(
    r'_operator\.(add|sub|mul|neg|pos|abs|floordiv|truediv|mod|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|xor|getitem)'
    r'|math\.(?!_)\w+|torch\.sym_[a-z]+|torch\._sym_sqrt'
)
# What runs a graph of the file, which is looked at as well.
_OF_GRAPHS = (
    'torch.ops.higher_order.wrap_with_autocast',
    'torch.ops.higher_order.wrap_with_set_grad_enabled',
)
_OF_FILES = ('from_file', 'save', 'load')
_IDENTIFIER = re.compile(r'(?:[A-Za-z_]\w*)?', re.ASCII)
_DOTTED = re.compile(r'[\w.]*', re.ASCII)
_TREES = (None, 'builtins.tuple', 'builtins.list', 'builtins.dict')
# Keys whose texts become names in the code that PyTorch writes for a program, and those that lead to attributes.
_NAMES = ('name', 'as_name', 'forward_arg_names')
_PATHS = ('parameter_name', 'buffer_name', 'tensor_constant_name', 'fqn')
_OBJECTS = ('as_custom_obj', 'custom_obj', 'custom_obj_values', 'as_opaque')
# Members of the layouts of PyTorch 2.8 and later, in a folder (at first with weights and constants in one pickle each),
# and of earlier ones, without.
_FREE = re.compile(
    r'archive_(format|version)|\.data/\w+|byteorder|version|extra(_files)?/.*|data/(weights|constants)/(weight|tensor)_\d+'
)
_GRAPHS = re.compile(r'models/\w+\.json|serialized_exported_program\.json')
_PAYLOADS = re.compile(r'data/(weights|constants)/\w+_config\.json')
_PICKLES = re.compile(
    r'data/(sample_inputs|weights|constants)/\w+\.pt|serialized_(state_dict|constants|example_inputs)\.(pt|json)'
)


def check_program(program: bytes, name: str) -> None:
    """Refuse a program whose loading or running would do anything but compute.

    Args:
        program: What its file holds.
        name: What messages call it.

    Raises:
        DeployError: If it holds objects, libraries, code or calls of what is no operator of PyTorch or mmvim.

    Examples:
        >>> import tempfile, torch
        >>> from mmvim.deploy import export_program
        >>> from mmvim.deploy.safe_program import check_program
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = export_program(torch.nn.ReLU(), f'{folder}/relu.pt2', sizes=((8, 8),))
        ...     check_program(open(f'{folder}/relu.pt2', 'rb').read(), 'relu.pt2')
    """
    for member, content in _members(program):
        found = _wrong(member, content)
        if found is not None:
            raise DeployError(f'{name} {found}', 'if you trust its author, load it with trusted=True')


def _members(program: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents as PyTorch's own reader finds them, and as the one that reads older files does."""
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(program))
        names = reader.get_all_records()
    except RuntimeError:  # an older file, whose members are in no folder, or no archive at all
        names = []
    for name in names:
        yield name, b'' if _FREE.fullmatch(name) else reader.get_record(name)
    with zipfile.ZipFile(io.BytesIO(program)) as archive:
        for info in archive.infolist():
            if '/' not in info.filename or info.filename.startswith('extra_files/'):
                yield info.filename, archive.read(info)


def _wrong(member: str, content: bytes) -> str | None:
    """Return what is wrong with a member, or None."""
    if _FREE.fullmatch(member):
        return None
    if _PICKLES.fullmatch(member):
        return None if not content or _is_plain(content, 'inputs' in member) else f'has objects in {member}'
    if _GRAPHS.fullmatch(member):
        graph = json.loads(content)
        return _wrong_inputs(graph) or _wrong_node(graph, '')
    if _PAYLOADS.fullmatch(member):
        return _wrong_payload(json.loads(content))
    return f'has {member[:80]}, which no program of mmvim has'


def _is_plain(content: bytes, inputs: bool) -> bool:
    """Say whether PyTorch reads a pickle as tensors with plain names, as it then does first when it loads a program.

    Args:
        content: The pickle.
        inputs: Whether it holds arguments, which are a tuple of tensors and no keywords: PyTorch writes the keys of
            others into code.
    """
    try:
        found = torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # of any kind, as the bytes may be
        return False
    if inputs:
        positional, keywords = found if isinstance(found, tuple) and len(found) == 2 else (None, None)
        return isinstance(positional, tuple) and keywords == {} and all(isinstance(x, torch.Tensor) for x in positional)
    return isinstance(found, dict) and all(
        isinstance(name, str) and _DOTTED.fullmatch(name) and isinstance(x, torch.Tensor) for name, x in found.items()
    )


def _wrong_payload(config: Any) -> str | None:
    for name, entry in config.get('config', {}).items():
        if not _DOTTED.fullmatch(name):
            return f'has a weight named {name[:80]!r}'
        if entry.get('use_pickle') or not re.fullmatch(r'(weight|tensor)_\d+', entry['path_name']):
            return f'has an object for {name[:80]}'
    return None


def _wrong_inputs(program: Any) -> str | None:
    """Refuse inputs that are no tensors: PyTorch writes texts and numbers into the code that compares them."""
    for entry in program['graph_module']['graph']['inputs']:
        if list(entry) != ['as_tensor']:
            return f'has an input of another kind than tensors ({", ".join(entry)})'
    return None


def _wrong_node(node: Any, key: str) -> str | None:
    """Return what is wrong below a node of a graph's JSON, or None; ``key`` is where it stands."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name in _OBJECTS and value:
                return f'has an object ({name})'
            found = _wrong_node(value, name)
            if found is not None:
                return found
    elif isinstance(node, list):
        for value in node:
            found = _wrong_node(value, key)
            if found is not None:
                return found
    elif isinstance(node, str):
        return _wrong_text(node, key)
    return None


def _computes(target: str) -> bool:
    """Say whether a call is of an operator, or of arithmetic of sizes."""
    found = _OPERATOR.fullmatch(target)
    if found is None and target in _OF_GRAPHS:
        return True
    if found is None:
        return _OF_SIZES.fullmatch(target) is not None
    space, name, overload = found.groups()
    full = f'{space}::{name}' + ('' if overload == 'default' else f'.{overload}')
    return name not in _OF_FILES and torch._C._dispatch_has_kernel(full)


def _wrong_text(text: str, key: str) -> str | None:
    shown = repr(text[:80])
    if key in ('target', 'as_operator') and not _computes(text):
        return f'calls {shown}'
    if key in _NAMES and not _IDENTIFIER.fullmatch(text):
        return f'names something {shown}'
    if key in _PATHS and not _DOTTED.fullmatch(text):
        return f'names something {shown}'
    if key == 'expr_str' and not is_size(text):
        return f'has the size {shown}'
    if key == 'guards_code' and not is_guard(text):
        return f'has the guard {shown}'
    if key in ('in_spec', 'out_spec') and text and not _is_tree(json.loads(text)[1]):
        return f'has the structure {shown}'
    return None


def _is_tree(node: Any) -> bool:
    """Say whether a structure is of tuples, lists and dictionaries of plain names."""
    if node['type'] not in _TREES:
        return False
    context = None if node['context'] is None else json.loads(node['context'])
    names = context is None or (
        isinstance(context, list) and all(isinstance(x, str) and x.isidentifier() for x in context)
    )
    return names and all(_is_tree(child) for child in node['children_spec'])
