"""The tables of published files: every row is whole, and sizes that are computed are those of the models."""

import re
from pathlib import Path

import pytest
from test_full_size import build_on_meta

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
ARCHS = {
    '_tiny_': 'tiny',
    '_tiny2_': 'tiny2',
    '_small_': 'small',
    '_base_': 'base',
    '_large_': 'large',
    '_large2_': 'large2',
    '_L2_': 'large2',
    '_L3_': 'large3',
    'vim_t_': 'tiny',
    'vim_s_': 'small',
    'vim_b_': 'base',
}
DENSE = {
    'mamba_vision_160k_ade20k-512x512_tiny.pth': 'mambavision-tiny_upernet_16xb1-amp-160k_ade20k-512x512.py',
    'mamba_vision_160k_ade20k-512x512_small.pth': 'mambavision-small_upernet_8xb2-amp-160k_ade20k-512x512.py',
    'mamba_vision_160k_ade20k-512x512_base.pth': 'mambavision-base_upernet_16xb1-amp-160k_ade20k-512x512.py',
    'mamba_vision_160k_ade20k-640x640_l3_21k.pth': 'mambavision-large3_upernet_16xb1-160k_ade20k-640x640.py',
    'cascade_mask_rcnn_mamba_vision_tiny_3x_coco.pth': 'mambavision-tiny_cascade-mask-rcnn_8xb2-amp-3x_coco.py',
    'cascade_mask_rcnn_mamba_vision_small_3x_coco.pth': 'mambavision-small_cascade-mask-rcnn_8xb2-amp-3x_coco.py',
    'cascade_mask_rcnn_mamba_vision_base_3x_coco.pth': 'mambavision-base_cascade-mask-rcnn_8xb2-amp-3x_coco.py',
}
COMPUTED = 'at least '  # before a size that nobody has seen: what the weights take


@pytest.fixture(scope='module')
def published(index):
    """Family and entry of every published file."""
    return [
        (Path(path).parent.name, entry)
        for path, metafile in index.items()
        for collection in metafile['Collections']
        for entry in collection['Metadata'].get('Published Files', ())
    ]


def weights_of(module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def as_the_hub_writes(size: int) -> str:
    return f'{size / 1e6:.0f} MB' if size < 1e9 else f'{size / 1e9:.2f} GB'


def test_every_row_is_whole(published):
    assert len(published) == 5 + 25
    for family, entry in published:
        assert entry.keys() == {'File', 'Size', 'Weights Alone', 'Repository', 'License', 'Reported'}, entry['File']
        assert entry['Size'].removeprefix(COMPUTED) == entry['Weights Alone'] or not entry['Size'].startswith(COMPUTED)
        assert entry['Repository'].startswith('https://huggingface.co/')
        assert ('non-commercial' in entry['License']) == (family == 'mambavision')
        assert re.search(r'\d\d\.\d.*\((ImageNet-1k|ADE20K|COCO)', entry['Reported'])


def test_the_readmes_have_the_same_rows(published):
    tables = {family: table_of_files(family) for family in ('vim', 'mambavision')}
    for family, entry in published:
        file, repository = f'`{entry["File"]}`', '/'.join(entry['Repository'].split('/')[-2:])
        (row,) = [row for row in tables[family] if file in row['File'] and f'`{repository}`' in row['Repository']]
        # Files of one row stand in the same order in both cells.
        files = [file.strip('` ') for file in row['File'].split('(')[0].split(', ')]
        assert row['Size'].split(', ')[files.index(entry['File'])] == entry['Size']
        assert row.get('Weights alone, computed', entry['Weights Alone']) == entry['Weights Alone']
        assert entry['Reported'].startswith(row['Reported'])
    named = [file for table in tables.values() for row in table for file in re.findall('`([^`]+)`', row['File'])]
    assert sorted(named) == sorted(entry['File'] for _, entry in published)


def table_of_files(family: str) -> list[dict[str, str]]:
    """The rows of the table of published files, by the first word of the head of each column."""
    lines = (CONFIGS / family / 'README.md').read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith('| File |'))
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith('|'))
    head, _, *rows = ([cell.strip() for cell in line.strip('|').split('|')] for line in lines[start:end])
    head = [name if name.startswith('Weights') else re.split('[ ,]', name)[0] for name in head]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_as_many_sizes_are_computed_as_the_readme_says(published):
    computed = sum(entry['Size'].startswith(COMPUTED) for _, entry in published)
    assert computed == 11 and 'The eleven "at least"' in (CONFIGS / 'mambavision' / 'README.md').read_text()


def test_classifiers_have_the_computed_size(published):
    """On the hub a safetensors file is the weights alone, so that the computation can be checked."""
    checked = 0
    for family, entry in published:
        source = next((e['File'] for _, e in published if e['Repository'] == entry['Repository']), '')
        if source in DENSE:
            continue
        arch = next(arch for part, arch in ARCHS.items() if part in source)
        options = (
            {'cls_token': 'middle', 'stride': 8 if '_ft_' in entry['File'] else 16}
            if family == 'vim'
            else {'out_norm': False}
        )
        kind = {'vim': 'mmvim.Vim', 'mambavision': 'mmvim.MambaVision'}[family]
        backbone = build_on_meta({'type': kind, 'arch': arch, 'final_norm': True, **options})
        width = backbone.embed_dims if family == 'vim' else backbone.dims[-1]
        size = as_the_hub_writes(weights_of(backbone) + 4 * 1000 * (width + 1))
        assert entry['Weights Alone'] == size, entry['File']
        if entry['File'].endswith('.safetensors'):
            assert entry['Size'] == size
            checked += 1
    assert checked == 7


@pytest.mark.parametrize('file', DENSE)
def test_dense_models_have_the_computed_size(file, published, load):
    cfg = load(f'mambavision/{DENSE[file]}')
    (entry,) = [entry for _, entry in published if entry['File'] == file]
    assert entry['Weights Alone'] == as_the_hub_writes(weights_of(build_on_meta(cfg.model, cfg.default_scope)))
