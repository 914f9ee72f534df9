"""Names of configs, and the table of published numbers."""

import json

import pytest
import yaml

from mmvim.cli import UserError, recipes
from mmvim.cli.commands.models import main as list_models

SHORT = 'upernet_vim_t_ade20k'
FULL = 'vim-tiny_upernet_4xb8-60k_ade20k-512x512'
METAFILE = """
Models:
- Name: vim-a_upernet
  Config: configs/vim/vim-a_upernet.py
  Metadata: {Training Data: ADE20K, Published: {metric: mIoU, value: 41.0, source: https://example.org/vim}}
- Name: vim-b_mask-rcnn
  Config: configs/vim/vim-b_mask-rcnn.py
  Metadata: {Training Data: COCO, Published: {metric: box AP / mask AP, value: [46.1, 40.9], source: a paper}}
- Name: swan_upernet
  Config: configs/swan/swan_upernet.py
  Metadata: {Training Data: [ADE20K, COCO], Published: {metric: mIoU, value: null, source: the recipe of Swan}}
- Name: swan_in1k
  Config: configs/swan/swan_in1k.py
  Metadata: {Training Data: ImageNet-1k}
"""


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A metafile with each kind of number."""
    (tmp_path / 'model-index.yml').write_text('Import: [metafile.yml]')
    (tmp_path / 'metafile.yml').write_text(METAFILE)
    monkeypatch.setattr(recipes, 'MIM', tmp_path)


@pytest.mark.parametrize(
    ('name', 'found'),
    [
        (SHORT, f'{SHORT}.py'),
        (f'{SHORT}.py', f'{SHORT}.py'),
        (f'configs/{SHORT}.py', f'{SHORT}.py'),
        (FULL, f'vim/{FULL}.py'),
        (f'vim/{FULL}', f'vim/{FULL}.py'),
        (f'configs/vim/{FULL}.py', f'vim/{FULL}.py'),
        ('upernet_vim_demo', 'demo/upernet_vim_demo.py'),
    ],
)
def test_configs_by_name(name, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.find_config(name) == recipes.MIM / 'configs' / found


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / SHORT).write_text('')
    assert recipes.find_config(SHORT).resolve() == tmp_path / SHORT


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('upernet_vin_t_ade20k', f'config upernet_vin_t_ade20k does not exist; did you mean {SHORT}'),
        ('vim_mask_rcnn', 'mask_rcnn_vim_'),
        (f'mambavision/{FULL}', f'did you mean {FULL}'),
        (f'./{SHORT}', f'did you mean {SHORT}'),
        (f'../{SHORT}', 'does not exist'),
        ('coco_1x_mambavision', 'does not exist'),
        ('', 'is a directory'),
        ('.py', 'does not exist'),
    ],
)
def test_names_that_are_not_there(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        recipes.find_config(name)
    assert words in str(error.value)


def test_neighbours_of_a_missing_file(tmp_path):
    for name in ('a.py', 'b.py', 'mine_small.py', 'mine_large.py', 'z.py'):
        (tmp_path / name).write_text('')
    with pytest.raises(UserError, match=rf'{tmp_path} holds mine_small\.py, mine_large\.py'):
        recipes.find_config(str(tmp_path / 'mine_smal.py'))


def test_an_installation_without_configs(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, 'MIM', tmp_path)
    for call in (recipes.published, lambda: recipes.find_config('x')):
        with pytest.raises(UserError, match='install mmvim anew') as error:
            call()
        assert error.value.status == 1


def test_every_config_of_the_metafiles_is_listed(capsys):
    index = yaml.safe_load((recipes.MIM / 'model-index.yml').read_text())
    models = [m for file in index['Import'] for m in yaml.safe_load((recipes.MIM / file).read_text())['Models']]
    list_models([])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ['config', 'data', 'metric', 'published', 'source']
    assert [row.split()[0] for row in rows] == [model['Name'] for model in models]
    assert all(recipes.find_config(model['Name']).is_file() for model in models)


def test_table(zoo, capsys):
    list_models([])
    assert capsys.readouterr().out.splitlines() == [
        'config           data          metric            published    source',
        'vim-a_upernet    ADE20K        mIoU              41.0         https://example.org/vim',
        'vim-b_mask-rcnn  COCO          box AP / mask AP  46.1 / 40.9  a paper',
        'swan_upernet     ADE20K, COCO  mIoU              -            the recipe of Swan',
        'swan_in1k        ImageNet-1k   -                 -            -',
    ]


@pytest.mark.parametrize(
    ('words', 'names'),
    [
        (['vim'], ['vim-a_upernet', 'vim-b_mask-rcnn']),
        (['UperNet', 'ade20k'], ['vim-a_upernet', 'swan_upernet']),
        (['ap', 'vim'], ['vim-b_mask-rcnn']),
        (['46.1'], ['vim-b_mask-rcnn']),
    ],
)
def test_words_filter(words, names, zoo, capsys):
    list_models([*words, '--json'])
    assert [row['name'] for row in json.loads(capsys.readouterr().out)] == names


def test_json(zoo, capsys):
    list_models(['vim-b', '--json'])
    assert json.loads(capsys.readouterr().out) == [
        {
            'name': 'vim-b_mask-rcnn',
            'config': 'vim/vim-b_mask-rcnn.py',
            'data': 'COCO',
            'metric': 'box AP / mask AP',
            'value': [46.1, 40.9],
            'source': 'a paper',
        }
    ]


def test_no_row_has_the_words(zoo, capsys):
    with pytest.raises(UserError, match="no config has 'upernt' and 'vim'; the nearest are vim-a_upernet, "):
        list_models(['upernt', 'vim'])
    assert capsys.readouterr().out == ''
