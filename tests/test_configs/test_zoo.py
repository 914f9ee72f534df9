"""The published files in the metafiles: every entry is whole, and sizes that are computed are those of the models."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from checkout import need
from test_full_size import build_on_meta, count

ROOT = Path(__file__).resolve().parents[2]
COMPUTED = 'at least '  # before a size that nobody has seen: what the weights take
KEYS = {'File', 'Size', 'Weights Alone', 'Repository', 'License', 'Reported'}
CLASSES = 1000  # of ImageNet-1k, which the published classifiers were trained on last


@pytest.fixture(scope='module')
def published(index):
    """Family and entry of every published file."""
    families = [family for metafile in index.values() for family in metafile['Collections']]
    return [(family, entry) for family in families for entry in family['Metadata'].get('Published Files', ())]


def weights_of(module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def as_the_hub_writes(size: int) -> str:
    return f'{size / 1e6:.0f} MB' if size < 1e9 else f'{size / 1e9:.2f} GB'


def head_of(backbone, hidden=()) -> int:
    """Weights of a classifier's linear layer, and of one with so many channels before it if there is one."""
    width = backbone.eval()(torch.empty(1, 3, 224, 224, device='meta'))[-1].shape[1]
    return sum((n + 1) * m for n, m in itertools.pairwise((width, *hidden, CLASSES)))


def size_of_classifier(backbone: dict, hidden=()) -> str:
    built = build_on_meta(dict(backbone))
    return as_the_hub_writes(weights_of(built) + 4 * head_of(built, hidden))


def test_every_entry_is_whole(published):
    assert published
    for _, entry in published:
        assert entry.keys() - {'Backbone', 'Config', 'Hidden'} == KEYS, entry['File']
        assert len({'Backbone', 'Config'} & entry.keys()) == 1, f'{entry["File"]}: what is its size computed from?'
        assert entry['Size'].removeprefix(COMPUTED) == entry['Weights Alone'] or not entry['Size'].startswith(COMPUTED)
        assert re.match(r'https://(huggingface\.co/|github\.com/.+/releases/tag/)', entry['Repository'])
        assert re.search(r'\d\d\.\d.*\((ImageNet-1k|ADE20K|COCO)', entry['Reported'])
    places = [(entry['Repository'], entry['File']) for _, entry in published]
    assert len(set(places)) == len(places)


def test_readmes_say_where_a_licence_is_non_commercial(published):
    for family, entry in published:
        readme = (ROOT / family['README']).read_text('utf-8')
        assert ('non-commercial' in entry['License']) == ('**Non-commercial**' in readme), entry['File']


def test_classifiers_have_the_computed_size(published):
    """On the hub a safetensors file is the weights alone, so that the computation can be checked."""
    sizes, seen = {}, 0
    for _, entry in published:
        if 'Backbone' not in entry:
            continue
        options, hidden = repr(entry['Backbone']), (entry['Hidden'],) if 'Hidden' in entry else ()
        size = sizes.setdefault(options, None) or size_of_classifier(entry['Backbone'], hidden)
        sizes[options] = size
        assert entry['Weights Alone'] == size, entry['File']
        if entry['File'].endswith('.safetensors'):
            assert entry['Size'] == size
            seen += 1
    assert seen, 'nothing says that the computation is right'


def test_another_model_has_another_size(published):
    _, entry = next(pair for pair in published if pair[1].get('Backbone', {}).get('arch') == 'tiny')
    assert size_of_classifier({**entry['Backbone'], 'arch': 'small'}) != entry['Weights Alone']


def test_dense_models_have_the_computed_size(published, load):
    need('mmdet')
    for _, entry in published:
        if 'Config' in entry:
            cfg = load(entry['Config'].removeprefix('configs/'))
            model = build_on_meta(cfg.model, cfg.default_scope)
            assert entry['Weights Alone'] == as_the_hub_writes(weights_of(model)), entry['File']


def test_files_of_dense_models_report_the_published_figure(published, index):
    models = {model['Config']: model for metafile in index.values() for model in metafile['Models']}
    for _, entry in published:
        if 'Config' in entry:
            value = models[entry['Config']]['Metadata']['Published']['value']
            figures = [float(figure) for figure in re.findall(r'\d\d\.\d', entry['Reported'])]
            assert figures == (value if isinstance(value, list) else [value]), entry['File']


def test_classifiers_have_the_listed_number_of_parameters(index, load):
    """Of the other models the README has it, checked in test_full_size.py."""
    for metafile in index.values():
        for model in metafile['Models']:
            if model['Metadata']['Published']['metric'] == 'top-1':
                backbone = build_on_meta(load(model['Config'].removeprefix('configs/')).model.backbone)
                assert model['Metadata']['Parameters'] == count(backbone) + head_of(backbone), model['Name']
