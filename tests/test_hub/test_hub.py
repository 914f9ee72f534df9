"""Models pushed to and loaded from a stand-in of the hub: nothing here leaves the machine."""

import json
import shutil
from pathlib import Path

import hub_stand_in
import pytest
import torch
import yaml

from mmvim import checkpoints, hub
from mmvim.hub.description import describe
from mmvim.models import Vim

pytest.importorskip('huggingface_hub', reason='the extra "hub" is not installed')
pytest.importorskip('safetensors')

CONFIG = {'type': 'mmvim.Vim', 'arch': {'embed_dims': 16, 'depth': 2}, 'img_size': (32, 48), 'out_indices': (0, 1)}
HEAD = {
    'type': 'FCNHead', 'in_channels': 16, 'in_index': 1, 'channels': 8, 'num_convs': 1, 'concat_input': False,
    'num_classes': 3, 'norm_cfg': {'type': 'SyncBN', 'requires_grad': True},
}  # fmt: skip
SEGMENTOR = {
    'type': 'EncoderDecoder',
    'backbone': {**CONFIG, 'init_cfg': {'type': 'Pretrained', 'checkpoint': '/home/me/secret/vim.pth'}},
    'decode_head': HEAD, 'test_cfg': {'mode': 'whole'}, 'pretrained': None,
}  # fmt: skip
MEASURED = [hub.Measurement('mIoU', 41.25, 'ADE20K', 'validation', 'one scale, | whole picture')]


@pytest.fixture
def there(tmp_path, monkeypatch):
    """The stand-in, with empty caches and no token of the user's."""
    for name in (
        'HF_HUB_CACHE',
        'HF_TOKEN',
        'HF_HUB_OFFLINE',
        'HTTP_PROXY',
        'HTTPS_PROXY',
        'http_proxy',
        'https_proxy',
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'hf'))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr('huggingface_hub.constants.HF_TOKEN_PATH', str(tmp_path / 'none'))
    with hub_stand_in.running(tmp_path / 'server') as server:
        monkeypatch.setenv('HF_ENDPOINT', server.address)
        monkeypatch.setattr('huggingface_hub.HfApi', hub_stand_in.api_of(server))
        yield server


def backbone(seed=0):
    torch.manual_seed(seed)
    return Vim(CONFIG['arch'], img_size=CONFIG['img_size'], out_indices=(0, 1)).eval()


def push(model=None, repo='me/vim', **options):
    options = {'config': CONFIG, 'license': 'apache-2.0', 'token': 'secret', **options}
    return hub.push(backbone() if model is None else model, repo, **options)


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_what_is_pushed_comes_back(there):
    model = backbone()
    address = push(model, measured=MEASURED)
    assert address.startswith(f'{there.address}/me/vim/commit/')
    found = hub.from_pretrained('me/vim')
    assert same(model, found) and not found.training and found.out_indices == (0, 1)
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(x), found(x), strict=True))


def test_revisions(there):
    push(backbone(0))
    first = there.commits['me/vim', 'main']
    push(backbone(1))
    push(backbone(2), revision='trial')
    assert same(hub.from_pretrained('me/vim'), backbone(1))
    assert same(hub.from_pretrained('me/vim', revision=first), backbone(0))
    assert same(hub.from_pretrained('me/vim', revision='trial'), backbone(2))
    with pytest.raises(checkpoints.CheckpointError, match=r'config.json cannot be fetched .*; correct the name'):
        hub.from_pretrained('me/vim', revision='no-such')


def test_offline_takes_what_the_cache_has(there, monkeypatch):
    with pytest.raises(checkpoints.CheckpointError, match=r'is not in .*hf/hub, and nothing is fetched'):
        hub.from_pretrained('me/vim', offline=True)
    push()
    hub.from_pretrained('me/vim')
    there.requests.clear()
    assert same(hub.from_pretrained('me/vim', offline=True), backbone())
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert same(hub.from_pretrained('me/vim'), backbone())
    assert there.requests == []


def test_private_repositories_want_a_token(there, monkeypatch):
    push(private=True)
    with pytest.raises(checkpoints.CheckpointError, match=r'cannot be fetched .*hf auth login'):
        hub.from_pretrained('me/vim')
    assert same(hub.from_pretrained('me/vim', token='secret'), backbone())
    monkeypatch.setenv('HF_TOKEN', 'secret')
    shutil.rmtree(Path(checkpoints.files.hub_files.cache_folder()))
    assert same(hub.from_pretrained('me/vim'), backbone())
    with pytest.raises(checkpoints.CheckpointError, match=r'making me/vim failed .401'):
        push(token='wrong')


def test_a_download_that_is_cut_off_goes_on(there, monkeypatch):
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    monkeypatch.setattr('huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE', 4096)
    model = backbone()
    push(model)
    there.cut = 1
    assert same(hub.from_pretrained('me/vim'), model)
    spans = [span for method, path, span in there.requests if method == 'GET' and path.endswith('model.safetensors')]
    first, second = spans
    assert first is None and second.startswith('bytes=') and int(second[6:-1]) >= 4096


def test_a_segmentor_with_its_classes_and_without_paths(there):
    pytest.importorskip('mmseg')
    from mmengine.config import Config

    from mmvim import cli

    cfg = Config({'default_scope': 'mmseg', 'model': SEGMENTOR})
    model = cli.build_model(cfg).eval()
    model.dataset_meta = {'classes': ('sky', 'sea', 'boat'), 'palette': [(1, 2, 3), [4, 5, 6], [7, 8, 9]]}
    push(model, 'me/seg', config=cfg, measured=MEASURED, text='Trained on drawings.')
    (commit,) = (there.folder / 'me/seg').iterdir()
    assert sorted(path.name for path in commit.iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    assert 'secret' not in (commit / 'config.json').read_text()
    found = hub.from_pretrained('me/seg')
    assert same(model, found) and found.dataset_meta['classes'] == ['sky', 'sea', 'boat']
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(model(x), found(x))
    card = (commit / 'README.md').read_text()
    header = yaml.safe_load(card.split('---')[1])
    assert header['license'] == 'apache-2.0' and header['pipeline_tag'] == 'image-segmentation'
    (result,) = header['model-index'][0]['results']
    assert result['metrics'][0] == {
        'type': 'mIoU', 'value': 41.25, 'name': 'mIoU', 'args': {'how': 'one scale, | whole picture'},
    }  # fmt: skip
    for words in ('3 classes apart: sky, sea, boat', 'Trained on drawings.', "hub.from_pretrained('me/seg')"):
        assert words in card
    assert '| mIoU | 41.25 | ADE20K, validation | one scale, / whole picture |' in card


def test_the_hubs_own_package_reads_the_card():
    from huggingface_hub import ModelCard

    card = ModelCard(hub.model_card('me/vim', describe(CONFIG), license='cc-by-nc-4.0', measured=MEASURED))
    assert card.data.license == 'cc-by-nc-4.0' and card.data.library_name == 'mmvim'
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ('mIoU', 41.25, 'validation')


def test_a_card_without_numbers_says_so():
    card = hub.model_card('me/vim', describe(CONFIG), license='mit', parameters=1_250_000)
    assert 'Nothing was measured.' in card and 'model-index' not in card and '1.2 million parameters' in card


@pytest.mark.parametrize(
    ('change', 'error', 'words'),
    [
        ({'license': ' '}, ValueError, 'license is empty'),
        ({'measured': [MEASURED[0]._replace(how='')]}, ValueError, 'mIoU lacks its "how"'),
        ({'measured': [MEASURED[0]._replace(value='41')]}, ValueError, "mIoU='41' is not a number"),
        ({'config': {'arch': 'tiny'}}, ValueError, 'the config names no model'),
        (
            {'config': {**CONFIG, 'init_cfg': Vim}},
            ValueError,
            r'model.init_cfg=.*Vim.* cannot stand in config.json',
        ),
        ({'config': {**CONFIG, 'img_size': 64}}, checkpoints.CheckpointError, 'do not fit its config'),
        ({'config': {**CONFIG, 'ach': 1}}, checkpoints.CheckpointError, "cannot be built: .*'ach'"),
        ({'repo': 'vim'}, checkpoints.CheckpointError, "'vim' is neither OWNER/NAME nor a folder"),
        ({'repo': '../me/vim'}, checkpoints.CheckpointError, 'is neither OWNER/NAME'),
    ],
)
def test_what_cannot_be_pushed(there, change, error, words):
    with pytest.raises(error, match=words):
        push(**change)
    assert there.commits == {}


@pytest.mark.parametrize(
    ('name', 'content', 'words'),
    [
        ('config.json', '{', 'config.json of .* is not JSON'),
        ('config.json', '{"architectures": ["Bert"]}', 'does not describe a model of mmvim; .*hf://OWNER'),
        ('config.json', '{"library": "mmvim", "format": 9, "model": {}}', 'has format 9, and this mmvim reads 1'),
        ('model.safetensors', 'no weights', 'model.safetensors of .* cannot be read'),
        ('config.json', None, 'has no config.json; give a folder'),
    ],
)
def test_damaged_repositories(tmp_path, name, content, words):
    folder = tmp_path / 'repo'
    hub.push(backbone(), folder, config=CONFIG, license='mit', upload=False)
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    with pytest.raises(checkpoints.CheckpointError, match=words):
        hub.from_pretrained(folder)


def test_weights_of_another_model(tmp_path):
    folder = tmp_path / 'repo'
    hub.push(backbone(), folder, config=CONFIG, license='mit', upload=False)
    description = json.loads((folder / 'config.json').read_text())
    description['model']['arch']['depth'] = 3
    description['model']['out_indices'] = {'__tuple__': [0, 2]}
    (folder / 'config.json').write_text(json.dumps(description))
    with pytest.raises(checkpoints.CheckpointError, match=r'do not fit its config: no layers\.2\.'):
        hub.from_pretrained(folder)


def test_hf_locations_go_by_the_hubs_package_and_its_cache(there, tmp_path):
    source = tmp_path / 'files'
    source.mkdir()
    torch.save({'state_dict': backbone().state_dict()}, source / 'vim.pth')
    there.commit('me/files', source)
    path = Path(checkpoints.fetch('hf://me/files/vim.pth'))
    assert path.is_relative_to(tmp_path / 'hf/hub/models--me--files')
    there.requests.clear()
    assert checkpoints.fetch('hf://me/files/vim.pth') == str(path) and there.requests == []
    with pytest.raises(checkpoints.CheckpointError, match='correct the name of the repository, the file'):
        checkpoints.fetch('hf://me/files/gone.pth')
    (source / 'vim.pth').write_bytes(b'<!DOCTYPE html><html>Sign in')
    there.commit('me/page', source)
    with pytest.raises(checkpoints.CheckpointError, match='is a web page'):
        checkpoints.fetch('hf://me/page/vim.pth')


def test_without_the_package(monkeypatch):
    monkeypatch.setattr('mmvim.hub.repository.has_hub', lambda: False)
    with pytest.raises(
        checkpoints.CheckpointError, match=r'huggingface_hub is not installed; pip install "mmvim.hub."'
    ):
        hub.from_pretrained('me/vim')
