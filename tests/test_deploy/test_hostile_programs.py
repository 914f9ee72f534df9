"""Programs that would run code when PyTorch loads or calls them: refused before PyTorch sees them."""

import io
import json
import os
import pickle
import re
import sys
import zipfile

import pytest
import torch
from checkout import ROOT
from torch import nn

from mmvim.deploy import DeployError, export_program, load_program
from mmvim.deploy.safe_expressions import is_guard, is_size
from mmvim.deploy.safe_program import check_program

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='makes folders by POSIX calls')


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, picture):
        return nn.functional.avg_pool2d(picture, 2) * self.scale


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp('program') / 'tiny.pt2'
    export_program(Tiny(), path, sizes=((8, 8), (12, 10)))
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith('data/weights/model_weights_config.json') for name in archive.namelist()):
            pytest.skip('this PyTorch writes programs in an earlier layout')
    return path


class Hurt:
    """What its pickle does when it is read: it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def changed(program, out, change):
    """Write the program anew after ``change`` has changed its members, a dictionary of names without the folder."""
    with zipfile.ZipFile(program) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    folder = next(iter(members)).partition('/')[0]
    inner = {name.partition('/')[2]: content for name, content in members.items()}
    change(inner)
    with zipfile.ZipFile(out, 'w') as archive:
        for name, content in inner.items():
            archive.writestr(f'{folder}/{name}', content)
    return out


def graph(inner, change):
    """Change the JSON of the graph as a text."""
    inner['models/model.json'] = change(inner['models/model.json'].decode()).encode()


def sample_inputs(inner, path):
    buffer = io.BytesIO()
    torch.save(Hurt(path), buffer)
    inner['data/sample_inputs/model.pt'] = buffer.getvalue()


def weights(inner, path):
    buffer = io.BytesIO()
    torch.save(Hurt(path), buffer)
    config = json.loads(inner['data/weights/model_weights_config.json'])
    for entry in config['config'].values():
        entry['use_pickle'] = True
        inner[f'data/weights/{entry["path_name"]}'] = buffer.getvalue()
    inner['data/weights/model_weights_config.json'] = json.dumps(config).encode()


def constants(inner, path):
    name = 'data/constants/model_constants_config.json'
    config = json.loads(inner[name])
    payload = {'path_name': 'opaque_obj_0', 'is_param': False, 'use_pickle': True, 'tensor_meta': None}
    config['config']['x'] = payload
    inner[name] = json.dumps(config).encode()
    inner['data/constants/opaque_obj_0'] = pickle.dumps(Hurt(path))


def set_sizes(inner, text):
    """Replace every size of the graph that is no number."""

    def change(content):
        model = json.loads(content)
        values = model['graph_module']['graph']
        sides = [side for value in values['tensor_values'].values() for side in value['sizes']]
        for side in (*sides, *values['sym_int_values'].values()):
            if 'as_expr' in side:
                side['as_expr']['expr_str'] = text
        return json.dumps(model)

    graph(inner, change)


def set_guard(inner, text):
    graph(inner, lambda content: json.dumps({**json.loads(content), 'guards_code': [text]}))


def size(inner, path):
    set_sizes(inner, f"__import__('os').mkdir({str(path)!r})")


def name_of_input(inner, path):
    code = f'picture=__import__("os").mkdir({str(path)!r})'
    graph(inner, lambda text: text.replace('"picture"', json.dumps(code)))


def called(inner, path):
    def change(text):
        model = json.loads(text)
        [node] = [node for node in model['graph_module']['graph']['nodes'] if 'avg_pool2d' in node['target']]
        node['target'] = 'torch.os.mkdir'
        node['inputs'] = [{'name': '', 'arg': {'as_string': str(path)}, 'kind': 1}]
        return json.dumps(model)

    graph(inner, change)


def structure(inner, path):
    """A default dictionary, whose factory is imported by its name."""
    context = {'default_factory_module': 'antigravity', 'default_factory_name': 'x', 'dict_context': []}
    tree = [1, {'type': 'collections.defaultdict', 'context': json.dumps(context), 'children_spec': []}]

    def change(text):
        model = json.loads(text)
        model['graph_module']['module_call_graph'][0]['signature']['out_spec'] = json.dumps(tree)
        return json.dumps(model)

    graph(inner, change)


def guard(inner, path):
    set_guard(inner, f"__import__('os').mkdir({str(path)!r})")


def library(inner, path):
    inner['data/aotinductor/model/evil.so'] = b'\x7fELF'


def opened(inner, path):
    """An operator that makes a file."""
    graph(inner, lambda text: text.replace('torch.ops.aten.avg_pool2d.default', 'torch.ops.aten.from_file.default'))


def size_over_two_lines(inner, path):
    """SymPy drops line ends before it parses, so that what was within quotes is not any more."""
    set_sizes(inner, f"Symbol('a\\\n' #'+str(__import__('os').mkdir('{path}')))#\n)")


def text_in_a_guard(inner, path):
    """PyTorch puts guards between double quotes."""
    evil = f"+str(__import__('os').mkdir('{path}'))+"
    set_guard(inner, f'1 != {evil!r}')


def names_of_sample_inputs(inner, path):
    """Which PyTorch writes into guards."""
    buffer = io.BytesIO()
    evil = f"+str(__import__('os').mkdir('{path}'))+"
    torch.save((({evil: torch.zeros(2, 3, 8, 8)},), {}), buffer)
    inner['data/sample_inputs/model.pt'] = buffer.getvalue()


def text_as_an_input(inner, path):
    """Which PyTorch compares with what it is called with, in code."""
    evil = f"'+str(__import__('os').mkdir('{path}'))+'"

    def change(text):
        model = json.loads(text)
        main, signature = model['graph_module']['graph'], model['graph_module']['signature']
        [node] = [node for node in main['nodes'] if 'mul' in node['target']]
        main['inputs'] = [{'as_tensor': {'name': 'p_scale'}}, {'as_string': evil}]
        signature['input_specs'][1] = {'constant_input': {'name': 'picture', 'value': {'as_none': True}}}
        node['inputs'][0]['arg'] = {'as_tensor': {'name': 'p_scale'}}
        main['nodes'] = [node]
        for name in [name for name in main['tensor_values'] if name not in ('p_scale', 'mul')]:
            del main['tensor_values'][name]
        main['tensor_values']['mul'] = main['tensor_values']['p_scale']
        model['range_constraints'] = {}
        return json.dumps(model)

    graph(inner, change)


def attribute(inner, path):
    graph(inner, lambda text: text.replace('torch.ops.aten.avg_pool2d.default', 'torch.ops.aten.__init__.__call__'))


HOSTILE = {
    size_over_two_lines: 'has the size ',
    text_in_a_guard: 'has the guard ',
    names_of_sample_inputs: 'has objects in data/sample_inputs/model.pt',
    text_as_an_input: r'has an input of another kind than tensors \(as_string\)',
    attribute: r"calls 'torch\.ops\.aten\.__init__\.__call__'",
    sample_inputs: 'has objects in data/sample_inputs/model.pt',
    weights: 'has an object for scale',
    constants: 'has an object for x',
    size: 'has the size ',
    name_of_input: 'names something ',
    called: "calls 'torch.os.mkdir'",
    structure: 'has the structure ',
    guard: 'has the guard ',
    library: r'has data/aotinductor/model/evil\.so, which no program of mmvim has',
    opened: r"calls 'torch\.ops\.aten\.from_file\.default'",
}
# Those whose harm the pinned PyTorch is seen to do when nobody looks first.
PINNED = re.search(r'torch==([\d.]+)', (ROOT / 'requirements/torch.txt').read_text())[1]
HARMFUL = (
    *(sample_inputs, weights, constants, size, name_of_input),
    *(size_over_two_lines, text_in_a_guard, names_of_sample_inputs, text_as_an_input),
)


@pytest.mark.parametrize('change', HOSTILE, ids=lambda change: change.__name__)
def test_hostile_programs_are_refused(program, tmp_path, change):
    hurt = tmp_path / 'hurt'
    file = changed(program, tmp_path / 'hostile.pt2', lambda inner: change(inner, hurt))
    with pytest.raises(DeployError, match=f'{HOSTILE[change]}.*; if you trust its author, load it with trusted=True'):
        load_program(file)
    assert not hurt.exists()


@pytest.mark.parametrize('change', HARMFUL, ids=lambda change: change.__name__)
def test_they_do_harm_where_nobody_looks(program, tmp_path, change):
    """The control: what the look keeps from happening does happen without."""
    hurt = tmp_path / 'hurt'
    file = changed(program, tmp_path / 'hostile.pt2', lambda inner: change(inner, hurt))
    try:
        load_program(file, trusted=True)(torch.zeros(1, 3, 8, 8))
    except Exception as error:
        if not hurt.exists() and torch.__version__.split('+')[0] != PINNED:
            pytest.skip(f'PyTorch {torch.__version__} refuses by itself: {str(error)[:200]}')
    assert hurt.exists()


def test_a_program_that_was_only_packed_anew_is_loaded(program, tmp_path):
    file = changed(program, tmp_path / 'same.pt2', lambda inner: None)
    x = torch.rand(2, 3, 10, 14)
    torch.testing.assert_close(load_program(file)(x), Tiny()(x))


def test_older_layouts_are_looked_at_too(tmp_path):
    """Before PyTorch 2.8 members were in no folder; later ones still read such files."""
    buffer = io.BytesIO()
    torch.save(Hurt(tmp_path / 'hurt'), buffer)
    with zipfile.ZipFile(tmp_path / 'old.pt2', 'w') as archive:
        archive.writestr('version', '8.1')
        archive.writestr('serialized_exported_program.json', '{"graph_module": {"graph": {"inputs": []}}}')
        for name in ('state_dict', 'constants', 'example_inputs'):
            archive.writestr(f'serialized_{name}.pt', buffer.getvalue())
    with pytest.raises(DeployError, match=r'has objects in serialized_state_dict\.pt'):
        load_program(tmp_path / 'old.pt2')
    assert not (tmp_path / 'hurt').exists()


def test_earlier_layouts_of_weights(program, tmp_path):
    """PyTorch 2.8 kept all weights in one pickle."""

    def change(inner):
        del inner['data/weights/model_weights_config.json']
        buffer = io.BytesIO()
        torch.save(Hurt(tmp_path / 'hurt'), buffer)
        inner['data/weights/model.pt'] = buffer.getvalue()

    with pytest.raises(DeployError, match=r'has objects in data/weights/model\.pt'):
        load_program(changed(program, tmp_path / 'earlier.pt2', change))
    assert not (tmp_path / 'hurt').exists()

    def plain(inner):
        change(inner)
        buffer = io.BytesIO()
        torch.save({'scale': torch.tensor(2.0)}, buffer)
        inner['data/weights/model.pt'] = buffer.getvalue()

    check_program(changed(program, tmp_path / 'plain.pt2', plain).read_bytes(), 'plain.pt2')


@pytest.mark.parametrize(
    'text',
    [
        's0 // 16 + 1', '-s0', 'Max(1, (s53 + 15) // 16)', 's0**2', 'u0 >= 2', 'Mod(s0, 8)', '3.5',
        "Add(Integer(1), Mul(Integer(-1), Symbol('s0', positive=True, integer=True)))",
        "Pow(Symbol('s0'), Integer(-1))", 'PythonMod(s0, 3)', 'Ne(s0, 1)', 'And(Ge(s0, 1), True)', 'IntTrueDiv(s0, 2)',
        'ModularIndexing(s0, 2, 4)', "TruncToInt(Mul(Float('1.5', precision=53), s0))", 'Pow(s0, Rational(1, 2))',
    ],
)  # fmt: skip
def test_sizes(text):
    assert is_size(text)


@pytest.mark.parametrize(
    'text',
    [
        "__import__('os').mkdir('x')", 's0.__class__', "Symbol('s0').__class__", "eval('1')", "Symbol(eval('1'))",
        "Symbol('x y')", 'lambda: 1', '[s0 for s0 in (1,)]', "sympify('1')", "Integer('__import__(\"os\")')", '"text"',
        '((2**64)**64)**64', 'Pow(Pow(9, 64), 64)', "Float('s0')",
        '9**9**9', 'Pow(Integer(9), Pow(Integer(9), Integer(9)))', '1 << 10**9', f'1{"0" * 40}', 's0[0]', "f'{s0}'",
        'Max(*s0)', 'Max(**s0)', 's0 if s0 else s0', '(s0 := 1)', 'Symbol(name="x")', 'print(1)', '', 's0; s1',
        '(' * 5000, "Symbol('s0', positive=print)", '1' * 30_000,
    ],
)  # fmt: skip
def test_what_is_no_size(text):
    assert not is_size(text)


@pytest.mark.parametrize(
    ('text', 'plain'),
    [
        ("L['x'].size()[0] >= 2", True),
        ("L['args'][0].shape[2] % 8 == 0", True),
        ("math.isnan(L['x'])", True),
        ("max(1, L['x'].size()[2] // 2) == 3", True),
        ("max(*L['x'])", False),
        ("L['x'].dtype == torch.float32", True),
        ("L['x'].__class__ == 1", False),
        ("__import__('os').mkdir('x')", False),
        ("torch.os.mkdir('x')", False),
        ("math.__loader__.load_module('os')", False),
        ('L[L]', False),
        ("L['x'].size.__globals__", False),
        ('print(1)', False),
    ],
)
def test_guards(text, plain):
    assert is_guard(text) is plain
