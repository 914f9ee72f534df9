"""The model index that MIM and MMEngine read."""

from pathlib import Path

import pytest

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
ROOT = CONFIGS.parent
METRICS = ('mIoU', 'box AP / mask AP', 'box AP', 'PQ', 'top-1')


def models(index):
    return [(path, model) for path, metafile in index.items() for model in metafile['Models']]


def test_index_names_every_metafile(index):
    assert sorted(index) == sorted(str(f.relative_to(ROOT)) for f in CONFIGS.rglob('metafile.yml'))


def test_every_recipe_is_listed_once(index, recipe):
    listed = [model['Config'] for _, model in models(index)]
    assert listed.count(f'configs/{recipe}') == 1


def test_entries_of_the_metafiles(index):
    for path, model in models(index):
        config = ROOT / model['Config']
        assert config.is_file(), model['Config']
        assert config.parent == (ROOT / path).parent, f'{path} lists a config of another folder'
        assert model['Name'] == config.stem
        assert model['In Collection'] in {c['Name'] for c in index[path]['Collections']}
        assert {'Training Data', 'Batch Size', 'Architecture'} <= set(model['Metadata'])
    names = [model['Name'] for _, model in models(index)]
    assert len(names) == len(set(names))


def test_batch_size_is_the_configs(index, load):
    pytest.importorskip('mmdet', reason='mmdet is not installed')
    for _, model in models(index):
        cfg = load(str(Path(model['Config']).relative_to('configs')))
        if 'auto_scale_lr' in cfg:
            assert model['Metadata']['Batch Size'] == cfg.auto_scale_lr.base_batch_size, model['Name']


def test_length_of_the_training_is_the_configs(index, load):
    pytest.importorskip('mmdet', reason='mmdet is not installed')
    for _, model in models(index):
        cfg = load(str(Path(model['Config']).relative_to('configs'))).train_cfg
        told = {key: model['Metadata'].get(key) for key in ('Iterations', 'Epochs')}
        assert told == {'Iterations': cfg.get('max_iters'), 'Epochs': cfg.get('max_epochs')}, model['Name']


def test_every_config_has_the_authors_figure_with_its_source(index):
    """Or none, and then in words whose recipe it is."""
    for _, model in models(index):
        published = model['Metadata']['Published']
        assert list(published) == ['metric', 'value', 'source'] and published['metric'] in METRICS, model['Name']
        value, source = published['value'], published['source']
        assert source and source.startswith('https://') == (value is not None), model['Name']
        figures = [] if value is None else value if isinstance(value, list) else [value]
        assert len(figures) in (0, len(published['metric'].split(' / '))), model['Name']
        assert all(isinstance(figure, float) and 0 < figure < 100 for figure in figures), model['Name']


def test_no_result_or_weights_that_nobody_measured(index):
    """Mmvim has published no weights: an entry with them, or with results, would be somebody else's.

    `none/` says so, and lets `mim download` write the config: MIM takes what follows the last slash, here nothing, for
    a file's name, and fetches no file that is there.
    """
    for _, model in models(index):
        assert 'Results' not in model and model['Weights'] == 'none/', model['Name']


@pytest.mark.parametrize('key', ['Paper', 'README', 'Code'])
def test_collections_are_complete(index, key):
    for path, metafile in index.items():
        for collection in metafile['Collections']:
            assert key in collection, f'{path}: {collection["Name"]}'
            if key == 'README':
                assert (ROOT / collection['README']).is_file()
