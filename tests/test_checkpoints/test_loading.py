"""Backbones receive files in every container, from wherever they lie."""

import http.server
import json
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from families import FAMILY_CASES
from family_cases.base import randomised
from family_cases.mambavision import SMALL_MAMBAVISION, published_mambavision
from family_cases.vim import SMALL_VIM, published_vim
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import load_checkpoint
from published_files import ALL, save_safetensors

import mmvim.models.backbones as backbones
from mmvim import checkpoints
from mmvim.checkpoints.families import FAMILIES, recognise
from mmvim.models import LinearReadout, MambaVision, Vim
from mmvim.models.backbones.base import Backbone
from mmvim.registry import MODELS


@pytest.mark.parametrize('container', ALL)
@pytest.mark.parametrize('family', FAMILY_CASES)
def test_every_container(family, container, write):
    case = FAMILY_CASES[family]
    weights = case.files['classifier'].weights()
    init_cfg = {'type': 'Pretrained', 'checkpoint': write(weights, container)}
    if container == 'model_ema':
        init_cfg['key'] = 'model_ema'
    backbone = case.backbone(case.file_arch, **case.dense, init_cfg=init_cfg)
    backbone.init_weights()
    loaded = {name: value for name, value in backbone.state_dict().items() if not name.startswith(case.not_copied)}
    assert len(loaded) > len(weights) / 2
    for name, value in loaded.items():
        assert torch.equal(value, weights[name]), name


def test_a_file_saved_in_half_precision(write):
    """Counters of batch norm included: whole numbers in any dtype are integers, others are not."""
    weights = {name: value.half() for name, value in published_mambavision().items()}
    counters = [name for name in weights if name.startswith('levels.') and name.endswith('num_batches_tracked')]
    weights |= {name: torch.tensor(48.0).half() for name in counters}
    backbone = MambaVision(SMALL_MAMBAVISION, init_cfg={'type': 'Pretrained', 'checkpoint': write(weights, 'bare')})
    backbone.init_weights()
    own = backbone.state_dict()
    assert counters and all(own[name] == 48 and own[name].dtype == torch.int64 for name in counters)
    assert all(torch.equal(own[name], value.float()) for name, value in weights.items() if name in own)
    backbone.init_cfg['checkpoint'] = write({**weights, counters[0]: torch.tensor(0.5)}, 'bare')
    with pytest.raises(checkpoints.CheckpointError, match=f'{counters[0]}: float32 in the file, int64 in the model'):
        checkpoints.load_backbone(backbone, backbone.init_cfg['checkpoint'])


@pytest.mark.parametrize(
    ('family', 'arch'), [(name, arch) for name in FAMILIES for arch in FAMILIES[name].backbone.arch_zoo]
)
def test_every_published_size_is_recognised(family, arch):
    """From shapes alone, and for no other architecture's."""
    with torch.device('meta'):
        weights = FAMILIES[family].backbone(arch).state_dict()
    layout = recognise(weights, 'file')
    assert (layout.family, layout.kind) == (family, 'backbone')
    assert FAMILIES[family].arch_of(weights) == arch


def test_raw_weights_by_default_and_the_average_by_key(write):
    weights = published_vim()
    file = write(weights, 'model_ema')  # whose `model` is all zeros
    backbone = Vim(SMALL_VIM)
    checkpoints.load_backbone(backbone, file)
    assert not backbone.layers[0].mixer.in_proj.weight.any()
    checkpoints.load_backbone(backbone, file, key='model_ema')
    assert torch.equal(backbone.layers[0].mixer.in_proj.weight, weights['layers.0.mixer.in_proj.weight'])


def test_mmengines_own_initializer_cannot(write):
    """Why mmvim has one: MMEngine's leaves the backbone as it was, with a warning."""
    backbone = Vim(SMALL_VIM, init_cfg={'type': 'Pretrained', 'checkpoint': write(published_vim())})
    before = backbone.layers[0].mixer.in_proj.weight.detach().clone()
    BaseModule.init_weights(backbone)
    assert torch.equal(backbone.layers[0].mixer.in_proj.weight, before)


def test_every_backbone_reads_published_files():
    for name in backbones.__all__:
        cls = getattr(backbones, name)
        if isinstance(cls, type) and MODELS.get(f'mmvim.{name}') is cls:
            assert issubclass(cls, Backbone), f"{name}: init_cfg of type Pretrained would be MMEngine's own"


def test_files_come_after_other_initialisation(write):
    weights = published_vim()
    backbone = Vim(
        SMALL_VIM,
        init_cfg=[
            {'type': 'Pretrained', 'checkpoint': write(weights)},
            {'type': 'Constant', 'layer': ['Linear', 'Conv1d'], 'val': 3.0},
        ],
    )
    given = list(backbone.init_cfg)
    backbone.init_weights()
    assert torch.equal(backbone.layers[1].mixer.out_proj.weight, weights['layers.1.mixer.out_proj.weight'])
    assert backbone.init_cfg == given
    with torch.no_grad():
        backbone.layers[1].mixer.D.zero_()
    backbone.init_weights()  # MMEngine warns and does nothing
    assert not backbone.layers[1].mixer.D.any()


def test_backbone_of_a_segmentor(write):
    """A file of MMSegmentation's own layout: the heads are named as left out."""
    weights = published_vim(img_size=64)
    own = OrderedDict((f'backbone.{k}', v) for k, v in weights.items() if not k.startswith(('head', 'norm_f', 'cls')))
    own['backbone.pos_embed'] = torch.cat([weights['pos_embed'][:, :8], weights['pos_embed'][:, 9:]], dim=1)
    own['decode_head.conv_seg.weight'] = torch.zeros(3, 4, 1, 1)
    backbone = Vim(SMALL_VIM, img_size=64)
    report = checkpoints.load_backbone(backbone, write(own, 'state_dict'))
    assert report.dropped.keys() == {'decode_head.conv_seg.weight'} and not report.resized


def test_rope_buffers(write):
    weights = published_vim()
    weights['rope.freqs_cos'] = weights['rope.freqs_sin'] = torch.zeros(196, 16)
    assert checkpoints.read(write(weights), arch=SMALL_VIM).backbone['rope']
    report = checkpoints.load_backbone(Vim(SMALL_VIM, rope=True), write(weights))
    assert {'rope.freqs_cos', 'rope.freqs_sin'} <= report.dropped.keys()
    assert 'from the grid' in report.dropped['rope.freqs_cos']
    report = checkpoints.load_backbone(Vim(SMALL_VIM), write(weights))
    assert 'built without' in report.dropped['rope.freqs_cos']


def test_fewer_outputs(write):
    weights = randomised(MambaVision(SMALL_MAMBAVISION)).state_dict()
    backbone = MambaVision(SMALL_MAMBAVISION, out_indices=(1, 3))
    report = checkpoints.load_backbone(backbone, write(weights))
    assert {name[:8] for name in report.dropped} == {'outnorm0', 'outnorm2'} and not report.fresh
    assert torch.equal(backbone.outnorm3.weight, weights['outnorm3.weight'])


class Other(Backbone):
    """A backbone of a family that has no module of its own in the reader."""

    def __init__(self, width=4):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(2))
        self.outnorm0 = torch.nn.LayerNorm(width)


def test_a_family_without_rules(write):
    """Names after whatever prefix must be the model's; output norms may be new, blocks must be full."""
    weights = randomised(Other()).state_dict()
    file = OrderedDict((f'student.{k}', v) for k, v in weights.items() if not k.startswith('outnorm'))
    file['student.head.weight'] = torch.zeros(2, 4)
    backbone = Other()
    report = checkpoints.load_backbone(backbone, write(file))
    assert all(torch.equal(v, weights[k]) for k, v in backbone.layers.state_dict(prefix='layers.').items())
    assert report.fresh.keys() == {'outnorm0.weight', 'outnorm0.bias'}
    assert report.dropped.keys() == {'student.head.weight'}
    del file['student.layers.1.bias']
    with pytest.raises(checkpoints.CheckpointError, match=r'lacks 1 weights .layers.1.bias'):
        checkpoints.load_backbone(Other(), write(file), strict=False)
    with pytest.raises(checkpoints.CheckpointError, match='of another shape'):
        checkpoints.load_backbone(Other(5), write(weights))
    with pytest.raises(checkpoints.CheckpointError, match='is a classifier of Vim, and this backbone is a Other'):
        checkpoints.load_backbone(Other(), write(published_vim()))
    with pytest.raises(checkpoints.CheckpointError, match='of another model'):
        checkpoints.load_backbone(Other(), write({'a.w': torch.zeros(1)}, 'bare'))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server with the hub's URLs and a page where a file is not, and empty caches."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'hf'))
    for name in ('HF_HUB_CACHE', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'http_proxy', 'https_proxy', 'all_proxy'):
        monkeypatch.delenv(name, raising=False)
    served = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = served.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header('Content-Length', str(len(body or b'')))
            self.end_headers()
            if self.command == 'GET':
                self.wfile.write(body or b'')

        do_HEAD = do_GET  # without the headers by which the hub's own package knows a hub

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{server.server_port}')
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    yield served, f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def test_hub_and_url(hub, write, tmp_path):
    served, root = hub
    weights = published_vim()
    content = Path(write(weights)).read_bytes()
    served['/hustvl/Vim/resolve/main/vim.pth'] = content
    backbone = Vim(SMALL_VIM, init_cfg={'type': 'Pretrained', 'checkpoint': 'hf://hustvl/Vim/vim.pth'})
    backbone.init_weights()
    assert torch.equal(backbone.layers[0].mixer.D, weights['layers.0.mixer.D'])
    served.clear()
    checkpoints.load_backbone(Vim(SMALL_VIM), 'hf://hustvl/Vim/vim.pth')  # kept

    served['/page.pth'] = b'<!DOCTYPE html><html>Sign in'
    with pytest.raises(checkpoints.CheckpointError, match='is a web page'):
        checkpoints.fetch(f'{root}/page.pth')
    served['/page.pth'] = content
    assert Path(checkpoints.fetch(f'{root}/page.pth')).read_bytes() == content  # the page was not kept
    with pytest.raises(checkpoints.CheckpointError, match=r'cannot be fetched .*; download it by hand'):
        checkpoints.fetch(f'{root}/nothing.pth')
    with pytest.raises(checkpoints.CheckpointError, match='hf://OWNER/REPO/FILE'):
        checkpoints.fetch('hf://hustvl/vim.pth')
    with pytest.raises(checkpoints.CheckpointError, match='leaves its repository'):
        checkpoints.fetch('hf://hustvl/Vim/../../x')
    with pytest.raises(checkpoints.CheckpointError, match='no known kind'):
        checkpoints.fetch('s3://bucket/x')
    assert not list(tmp_path.rglob('*.part'))


def test_the_hubs_own_cache(hub, write, tmp_path):
    """A blob without a suffix behind a link, as huggingface_hub keeps it: no network."""
    weights = published_mambavision()
    repo = tmp_path / 'hf/hub/models--nvidia--MambaVision-T-1K'
    for folder in ('refs', 'blobs', 'snapshots/abc'):
        (repo / folder).mkdir(parents=True)
    (repo / 'refs/main').write_text('abc')
    (repo / 'blobs/0123').write_bytes(Path(write(weights, 'state_dict')).read_bytes())
    (repo / 'snapshots/abc/mambavision_tiny_1k.pth.tar').symlink_to(repo / 'blobs/0123')
    location = 'hf://nvidia/MambaVision-T-1K/mambavision_tiny_1k.pth.tar'
    backbone = MambaVision(SMALL_MAMBAVISION)
    checkpoints.load_backbone(backbone, location)
    checkpoints.load_backbone(backbone, location.replace('1K/', '1K@abc/'))
    checkpoints.load_backbone(backbone, str(repo / 'snapshots/abc'))
    checkpoints.load_backbone(backbone, f'file://{repo}/blobs/0123')
    assert torch.equal(backbone.levels[3].blocks[0].mixer.D, weights['levels.3.blocks.0.mixer.D'])


def test_mmengines_loader_understands_the_locations(write):
    """``published://`` and ``hf://`` where MMEngine takes a checkpoint, for a model in OpenMMLab's layout."""
    weights = published_vim()
    model = torch.nn.Module()
    model.backbone, model.head = Vim(SMALL_VIM, cls_token='middle', final_norm=True), LinearReadout(16, 7)
    load_checkpoint(model, f'published://{write(weights, "module.")}', strict=True)
    assert torch.equal(model.head.fc.weight, weights['head.weight'])
    assert torch.equal(model.backbone.pos_embed, weights['pos_embed'])


def write_shards(folder, weights, form='safetensors'):
    """Two shards and their index, as the libraries around the hub write large models."""
    folder.mkdir()
    names = list(weights)
    index = {name: f'model-0000{1 + (i >= len(names) // 2)}-of-00002.{form}' for i, name in enumerate(names)}
    for shard in set(index.values()):
        part = OrderedDict((name, weights[name]) for name in names if index[name] == shard)
        if form == 'safetensors':
            save_safetensors(part, folder / shard)
        else:
            torch.save(part, folder / shard)
    path = folder / f'model.{form}.index.json'
    path.write_text(json.dumps({'metadata': {'total_size': 1}, 'weight_map': index}))
    return path


@pytest.mark.parametrize('form', ['safetensors', 'bin'])
def test_shards(form, tmp_path):
    weights = published_vim()
    index = write_shards(tmp_path / 'repo', weights, form)
    for location in (index, index.parent):
        found = checkpoints.read(str(location), arch=SMALL_VIM)
        assert found.order == list(weights) and len(found.report.used) == len(weights)
    checkpoint, _ = checkpoints.read_for_model(str(index))
    assert not checkpoints.is_native(checkpoints.load_file(str(index)), checkpoint['state_dict'])
    backbone = Vim(SMALL_VIM)
    checkpoints.load_backbone(backbone, str(index))
    assert torch.equal(backbone.layers[1].mixer.D, weights['layers.1.mixer.D'])

    content = json.loads(index.read_text())
    for change, match in (
        ({'w': 'model-00001-of-00002.' + form}, 'names 1 weights that are not in their shards .w'),
        ({'w': '../x.bin'}, "outside of its folder: '../x.bin'"),
        ({'w': '..'}, 'outside'),
        ({'w': 'model-3.' + form}, 'shard model-3.* does not exist'),
    ):
        index.write_text(json.dumps({'weight_map': {**content['weight_map'], **change}}))
        with pytest.raises(checkpoints.CheckpointError, match=match):
            checkpoints.load_backbone(backbone, str(index))
    for no_index in ({'error': 'Repository not found'}, {'weight_map': {}}, {'weight_map': {'w': 3}}, [1]):
        index.write_text(json.dumps(no_index))
        with pytest.raises(checkpoints.CheckpointError, match='is not a checkpoint'):
            checkpoints.load_file(str(index))


def test_shards_of_the_hub(hub, tmp_path):
    served, _ = hub
    weights = published_vim()
    index = write_shards(tmp_path / 'repo', weights)
    for file in index.parent.iterdir():
        served[f'/nvidia/Vim/resolve/main/{file.name}'] = file.read_bytes()
    backbone = Vim(SMALL_VIM)
    checkpoints.load_backbone(backbone, f'hf://nvidia/Vim/{index.name}')
    assert torch.equal(backbone.layers[1].mixer.D, weights['layers.1.mixer.D'])


@pytest.mark.parametrize(('key', 'counter'), [('ema', 'n_averaged'), ('ema_state_dict', 'steps')])
def test_averages_of_pytorch_and_mmengine(key, counter, write, tmp_path):
    """Wrapped in `module.`, with a counter beside them; the optimizer's state may be larger than the weights."""
    weights = published_vim()
    average = OrderedDict([(counter, torch.tensor(5)), *((f'module.{k}', v) for k, v in weights.items())])
    state = {i: {'exp_avg': v.clone(), 'exp_avg_sq': v.clone()} for i, v in enumerate(weights.values())}
    path = str(tmp_path / 'average.pth')
    torch.save(
        {
            'state_dict': OrderedDict((k, torch.zeros_like(v)) for k, v in average.items()),
            key: average,
            'optimizer': {'state': state, 'param_groups': [{'lr': 1e-3, 'betas': (0.9, 0.999)}]},
        },
        path,
    )
    backbone = Vim(SMALL_VIM)
    report = checkpoints.load_backbone(backbone, path, key=key)
    assert torch.equal(backbone.layers[1].mixer.D, weights['layers.1.mixer.D'])
    assert 'counter of the average' in report.dropped[counter]
    assert counter not in checkpoints.read_for_model(path, key=key)[0]['state_dict']
    converted, found = checkpoints.to_mmvim(path, arch=SMALL_VIM, key=key)
    assert found.dropped.keys() == {counter}
    checkpoints.save_file(converted, tmp_path / 'plain.pth')
    assert list(checkpoints.from_mmvim(str(tmp_path / 'plain.pth'))[key]) == list(average)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types(dtype, write):
    """The model keeps its own, a converted file the publisher's."""
    weights = OrderedDict((name, value.to(dtype)) for name, value in published_vim().items())
    file = write(weights)
    backbone = Vim(SMALL_VIM, img_size=96)
    checkpoints.load_backbone(backbone, file)
    assert {value.dtype for value in backbone.parameters()} == {torch.float32}
    assert torch.equal(backbone.layers[1].mixer.D, weights['layers.1.mixer.D'].float())
    found = checkpoints.read(file, arch=SMALL_VIM)
    assert {found.state_dict[name].dtype for name in found.report.used} == {dtype}


def test_locations_as_users_write_them(write, tmp_path):
    folder = tmp_path / 'with space' / 'ä%20b'
    folder.mkdir(parents=True)
    file = folder / 'x.pth'
    file.write_bytes(Path(write(published_vim())).read_bytes())
    for location in (
        file,
        str(file),
        f'file://{file}',
        f'file://{quote(str(file))}',
        f'file://localhost{file}',
        file.as_uri(),
        folder,
    ):
        checkpoints.load_backbone(Vim(SMALL_VIM), location)
    file.rename(folder / 'x.ckpt')
    checkpoints.load_backbone(Vim(SMALL_VIM), folder)


def test_archives_that_were_packed_anew(write, tmp_path):
    """Compressed by somebody's zip, the bytes in the file are no numbers and must not be mapped."""
    weights, other = published_vim(), tmp_path / 'other.pth'
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(write(weights)) as archive, zipfile.ZipFile(other, 'w', method) as packed:
            for name in archive.namelist():
                packed.writestr(name, archive.read(name))
        found = checkpoints.read(str(other), arch=SMALL_VIM)
        assert all(torch.equal(found.state_dict[name], weights[found.names[name]]) for name in found.report.used)


def test_an_index_that_names_indices(tmp_path):
    index = tmp_path / 'model.safetensors.index.json'
    for named in (index.name, 'other.index.json'):
        for path in (index, tmp_path / 'other.index.json'):
            path.write_text(json.dumps({'weight_map': {'a': named if path == index else index.name}}))
        with pytest.raises(checkpoints.CheckpointError, match=f'shard {named} is an index itself'):
            checkpoints.read(str(index))
