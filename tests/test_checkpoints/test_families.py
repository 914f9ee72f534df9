"""A family is its own module and nothing else: what a new one brings is served, and no other file knows one by name."""

import ast
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from family_cases.base import randomised
from toy_family import OLDER, define_toy

import mmvim
from mmvim import checkpoints
from mmvim.checkpoints import CheckpointError, View
from mmvim.checkpoints.families import FAMILIES, Family, family_of, recognise
from mmvim.models import LinearReadout
from mmvim.registry import MODELS

PACKAGE = Path(mmvim.__file__).parent


@pytest.fixture
def families(monkeypatch):
    """Forget afterwards what a test registers."""
    monkeypatch.setattr(MODELS, '_module_dict', dict(MODELS._module_dict))
    before = dict(FAMILIES)
    yield FAMILIES
    FAMILIES.clear()
    FAMILIES.update(before)


@pytest.fixture
def toy(families):
    return define_toy()[0]


def classifier(toy, older=False):
    """The publisher's classifier, in the names of today or of before."""
    weights = randomised(toy(out_norm=False, final_norm=True)).state_dict()
    head = randomised(LinearReadout(4, 5), 1).fc.state_dict()
    named = OrderedDict()
    for name, value in (*weights.items(), *((f'head.{name}', value) for name, value in head.items())):
        if older:
            for new, old in OLDER.items():
                name = name.replace(new, old)
        elif name.startswith(('norm.', 'head.')):
            name = f'classifier.{name}'
        named[name] = value
    return named


@pytest.mark.parametrize('older', [False, True])
def test_a_classifier_of_a_new_family(older, toy, write, tmp_path):
    weights = classifier(toy, older)
    file = write(weights, 'module.')
    found = checkpoints.read(file)
    assert (found.family, found.arch, found.kind) == ('toy', 'tiny', 'classifier')
    assert len(found.report.used) == len(weights) and not found.dropped
    assert found.names['head.fc.bias'] == ('module.head.bias' if older else 'module.classifier.head.bias')
    assert found.head == {'type': 'mmvim.LinearReadout', 'in_channels': 4, 'num_classes': 5}
    model = checkpoints.build_classifier(found)
    assert torch.equal(model.backbone.blocks[1].op.weight, [*weights.values()][8])
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert checkpoints.preprocessing(found) == View(32, 0.9, 'bilinear', 'squash')
    assert checkpoints.preprocessing(found, img_size=64) == View(64, 0.9, 'bilinear', 'squash')

    converted, _ = checkpoints.to_mmvim(file)
    assert {name.split('.')[0] for name in converted['state_dict']} == {'backbone', 'head'}
    checkpoints.save_file(converted, tmp_path / 'plain.pth')
    back = checkpoints.from_mmvim(str(tmp_path / 'plain.pth'))['state_dict']
    assert list(back) == [f'module.{name}' for name in weights]
    assert all(torch.equal(value, back[f'module.{name}']) for name, value in weights.items())

    torch.save({'state_dict': converted['state_dict']}, tmp_path / 'own.pth')
    named = checkpoints.from_mmvim(str(tmp_path / 'own.pth'), 'toy', 'classifier')['state_dict']
    assert list(named) == list(classifier(toy)), "the publisher's names of today"


def test_options_of_a_new_family(toy, write):
    weights = classifier(toy, older=True)
    file = write(weights)
    backbone = toy(init_cfg={'type': 'Pretrained', 'checkpoint': file})
    backbone.init_weights()
    assert torch.equal(backbone.patch_embed[0].weight, weights['patch_embed.proj.weight'])
    backbone = toy(init_cfg={'type': 'Pretrained', 'checkpoint': file, 'channels': 'bgr'})
    backbone.init_weights()
    assert torch.equal(backbone.patch_embed[0].weight, weights['patch_embed.proj.weight'].flip(1))
    report = checkpoints.load_backbone(toy(), file)
    assert report.fresh.keys() == {'outnorm0.weight', 'outnorm0.bias'}
    assert set(report.dropped) == {'head.fc.weight', 'head.fc.bias', 'norm.weight', 'norm.bias'}
    backbone = toy(init_cfg={'type': 'Pretrained', 'checkpoint': 'gone.pth', 'chanels': 'bgr'})
    known = 'its options are channels, channel_change'
    with pytest.raises(CheckpointError, match=rf"Toy has no option 'chanels'; {known}$"):
        backbone.init_weights()  # before the file is looked for
    with pytest.raises(CheckpointError, match=r"channels='grb' is not one of 'rgb', 'bgr'"):
        checkpoints.read(file, channels='grb')


def test_a_segmentor_of_a_new_family(toy, write):
    """Older names in the backbone, tensors that are never used, an auxiliary head on a map of its own."""
    weights = OrderedDict((f'backbone.{name}', value) for name, value in classifier(toy, older=True).items())
    weights = OrderedDict((k, v) for k, v in weights.items() if not k.startswith(('backbone.norm', 'backbone.head')))
    weights |= {f'backbone.outnorm0.{end}': torch.ones(4) for end in ('weight', 'bias')}
    weights['backbone.gate.weight'] = torch.ones(1)
    weights |= {f'decode_head.lateral_convs.{i}.conv.weight': torch.ones(8, 4, 1, 1) for i in range(3)}
    weights |= {f'decode_head.psp_modules.{i}.1.conv.weight': torch.ones(8, 4, 1, 1) for i in range(4)}
    weights['decode_head.conv_seg.weight'] = torch.ones(3, 8, 1, 1)
    weights['auxiliary_head.conv_seg.weight'] = torch.ones(3, 8, 1, 1)
    weights['auxiliary_head.convs.0.conv.weight'] = torch.ones(8, 4, 3, 3)
    checkpoint, report = checkpoints.read_for_model(write(weights))
    assert report.dropped == {'backbone.gate.weight': 'gate of an experiment'}
    own = [name for name in checkpoint['state_dict'] if name.startswith('backbone.')]
    assert own == [f'backbone.{name}' for name in toy().state_dict()]
    found = checkpoints.read(write(weights))
    assert found.report.dropped == report.dropped
    assert found.heads['auxiliary_head']['in_index'] == 3
    backbone = toy()
    checkpoints.load_backbone(backbone, write(weights))
    assert torch.equal(backbone.blocks[0].op.bias, weights['backbone.blocks.0.self_attention.bias'])


def test_two_names_of_one_tensor(toy, write):
    weights = classifier(toy)
    weights['blocks.0.self_attention.weight'] = weights['blocks.0.op.weight']
    with pytest.raises(CheckpointError, match=r'1 that belong nowhere .blocks.0.self_attention.weight'):
        checkpoints.read(write(weights))


def test_relatives(families):
    """Of families whose files share names, the one that asks for the most is meant, whichever came first."""
    toy, family = define_toy()

    class Relative(toy):
        def __init__(self):
            super().__init__()
            self.squeeze = torch.nn.Linear(4, 4)

    class RelativeFamily(family):
        name = 'relative'
        backbone = Relative
        stem = (*family.stem, 'squeeze.weight')

    assert list(families)[-2:] == ['toy', 'relative']
    for model, name in ((toy(), 'toy'), (Relative(), 'relative')):
        assert recognise(model.state_dict(), 'file').family == family_of(model).name == name


def test_what_is_no_family(families):
    with pytest.raises(TypeError, match='Half lacks backbone, stem, final_norm, arch_settings, config, settings'):

        class Half(Family):
            name = 'half'

    class Base(Family):
        """A base of several is not registered."""

    vim = type(FAMILIES['vim'])
    with pytest.raises(ValueError, match="name='vim' of Other is that of VimFamily"):

        class Other(vim):
            name = 'vim'

    assert 'half' not in families and type(FAMILIES['vim']) is vim


def code_of(path):
    """The texts and names in a module's code: no comments, no docstrings."""
    tree = ast.parse(path.read_text('utf-8'))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value
        elif isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, (ast.Name, ast.Attribute, ast.alias)):
            yield node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else node.name


def families_named(path):
    """The families that a module's code names."""
    names = {family.name for family in FAMILIES.values()} | {family.title for family in FAMILIES.values()}
    named = re.compile(rf'(?<![A-Za-z])(?i:{"|".join(sorted(names))})(?![a-z])')
    return {match[0] for text in code_of(path) for match in named.finditer(text.replace('_', ''))}


def test_generic_files_know_no_family():
    files = [*(PACKAGE / 'checkpoints').rglob('*.py'), *(PACKAGE / 'analysis').rglob('*.py')]
    generic = [path for path in files if path.parent.name != 'families']
    generic += [PACKAGE / 'checkpoints' / 'families' / f'{name}.py' for name in ('base', 'names', 'recognise')]
    assert {path.name: found for path in generic if (found := families_named(path))} == {}
    assert families_named(PACKAGE / 'checkpoints' / 'families' / 'vim.py')  # the rule sees


def imports_of(path):
    """The modules of mmvim that a file imports from."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text('utf-8'))) if isinstance(node, ast.ImportFrom))
    return {node.module for node in nodes if node.module.startswith('mmvim')}


def test_files_know_only_bytes():
    """What reads a file needs nothing of what is made of it."""
    for path in (PACKAGE / 'checkpoints' / 'files').glob('*.py'):
        others = {module for module in imports_of(path) if not module.startswith('mmvim.checkpoints.files.')}
        assert others <= {'mmvim.checkpoints.errors'}, path


def test_no_circular_imports():
    """A file of the reader is needed by none that it needs."""
    folder = PACKAGE / 'checkpoints'
    modules = {
        '.'.join(('mmvim', *path.relative_to(PACKAGE).with_suffix('').parts)).removesuffix('.__init__'): path
        for path in folder.rglob('*.py')
        if path != folder / '__init__.py'
    }
    needs = {module: imports_of(path) & set(modules) for module, path in modules.items()}
    assert all(needs[f'mmvim.checkpoints.{name}'] for name in ('read', 'load', 'convert', 'families'))  # the rule sees
    while ready := [module for module, needed in needs.items() if not needed]:
        needs = {module: needed - set(ready) for module, needed in needs.items() if module not in ready}
    assert needs == {}
