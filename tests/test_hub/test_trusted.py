"""Configs from a repository run what is registered, and read no files."""

import json
import os

import pytest
from checkout import CONFIGS
from mmengine.registry import MODELS

from mmvim import checkpoints, hub
from mmvim.hub.trusted import check_config
from mmvim.models import Vim

pytest.importorskip('safetensors')
CONFIG = {'type': 'mmvim.Vim', 'arch': {'embed_dims': 16, 'depth': 1}, 'img_size': 32}


@pytest.fixture
def repository(tmp_path):
    """A folder that was pushed, and a function that puts another config for its model there."""
    folder = tmp_path / 'repo'
    hub.push(Vim(CONFIG['arch'], img_size=32), folder, config=CONFIG, license='mit', upload=False)

    def write(model, **others):
        description = json.loads((folder / 'config.json').read_text())
        (folder / 'config.json').write_text(json.dumps({**description, 'model': model, **others}))
        return folder

    return write


@pytest.mark.parametrize('place', ['model', 'part', 'list'])
def test_functions_are_not_called(repository, tmp_path, place):
    hurt = {'type': 'os.mkdir', 'path': str(tmp_path / 'hurt')}
    model = {'model': hurt, 'part': {**CONFIG, 'norm_cfg': hurt}, 'list': {**CONFIG, 'x': {'__tuple__': [hurt]}}}[place]
    with pytest.raises(checkpoints.CheckpointError, match=r"has type='os.mkdir'.*, which is no registered part"):
        hub.from_pretrained(repository(model))
    assert not (tmp_path / 'hurt').exists()


def test_mmengine_would_call_them(tmp_path):
    """The control."""
    with pytest.raises(Exception):  # noqa: B017  of whatever kind: it is no model
        MODELS.build({'type': 'os.mkdir', 'path': str(tmp_path / 'hurt')}).eval()
    assert os.path.isdir(tmp_path / 'hurt')


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'teacher_config': 'evil.py'}, r"has teacher_config='evil\.py', a file besides its weights"),
        ({'loss': {'class_weight': 'weights.PKL'}}, r"has loss\.class_weight='weights\.PKL', a file besides"),
        ({'init_cfg': {'type': 'Pretrained', 'checkpoint': 'http://x/y'}}, 'has init_cfg.checkpoint=.*, a file'),
        ({'test_cfg': {'nms': {'type': "__import__('os').mkdir('x')"}}}, 'has type="__import__.*in test_cfg.nms, '),
        ({'warp_mode': "print('x')"}, 'has warp_mode=.*, which could be a call'),
        ({'norm_cfg': {'type': 'antigravity'}}, "has type='antigravity' in norm_cfg, which is no registered"),
        ({'norm_cfg': {'type': 'antigravity.LN'}}, "has type='antigravity.LN' in norm_cfg, which is no registered"),
        ({'norm_cfg': {'type': 'mmengine.registry.init_default_scope'}}, 'in norm_cfg, which is no registered'),
        ({'norm_cfg': {'type': 'LN', '_scope_': 'antigravity'}}, "_scope_ of .* is 'antigravity', which is neither"),
        ({'test_cfg': {'nms': {'type': 'exec'}}}, "has type='exec' in test_cfg.nms, which"),
        ({'x': {'type': '__main__'}}, "has type='__main__' in x, which"),
        ({'loss': {'class_weight': 'pkl'}}, "has loss.class_weight='pkl', a file"),
        ({'teacher_ckpt': 'hostile'}, "has teacher_ckpt='hostile', a file"),
        ({'x': 'folder/hostile'}, "has x='folder/hostile', a file"),
        ({'x': '[A["os"] for A.b in c]'}, 'has x=.*, which could be a call'),
        ({'trust_remote_code': True}, 'has trust_remote_code=True, which would run code from elsewhere'),
        ({'norm_cfg': {'type': 'LN', '_scope_': []}}, r'_scope_ of .* is \[\], which is neither'),
        ({'norm_cfg': {'type': 'LN', '_scope_': 5}}, '_scope_ of .* is 5, which is neither'),
    ],
)  # fmt: skip
def test_what_a_config_may_not_say(repository, change, words):
    with pytest.raises(checkpoints.CheckpointError, match=words):
        hub.from_pretrained(repository({**CONFIG, **change}))


def test_parts_that_evaluate_texts_or_read_files(repository, tmp_path):
    """They are registered, but no parts of what is kept in repositories."""
    pytest.importorskip('mmdet')
    warp = {'type': 'mmdet.CameraMotionCompensation', 'warp_mode': 'cv2.MOTION_EUCLIDEAN'}
    for name in ('mmdet.StrongSORT', 'StrongSORT'):
        with pytest.raises(checkpoints.CheckpointError, match=f"has type='{name}', which is no registered"):
            hub.from_pretrained(repository({'type': name, 'cmc': warp}, default_scope='mmdet'))


def test_scopes_of_unknown_packages(repository):
    with pytest.raises(checkpoints.CheckpointError, match=r"default_scope of .* is 'antigravity', which is neither"):
        hub.from_pretrained(repository(CONFIG, default_scope='antigravity'))


@pytest.mark.parametrize('arch', [5, {'embed_dims': -1}, {'embed_dims': 'x'}, None])
def test_a_model_that_cannot_be_built(repository, arch):
    with pytest.raises(checkpoints.CheckpointError, match=r'the model of .* cannot be built'):
        hub.from_pretrained(repository({**CONFIG, 'arch': arch}))


def test_versions_that_are_none(repository):
    from safetensors.torch import load_file, save_file

    folder = repository(CONFIG)
    weights = load_file(folder / 'model.safetensors')
    for versions in ('5', '[1]', '{"layers": 1}', '{'):
        save_file(weights, folder / 'model.safetensors', metadata={'format': 'pt', 'module_versions': versions})
        try:
            hub.from_pretrained(folder)
        except checkpoints.CheckpointError as error:
            assert 'model.safetensors of' in str(error)


FILES = sorted({(path.parent.name, *path.name.split('_')[1:2]): path for path in CONFIGS.glob('*/*.py')}.values())


@pytest.mark.parametrize('file', [str(path.relative_to(CONFIGS)) for path in FILES if '_base_' not in path.parts])
def test_our_own_configs(load, file):
    """One of each family and kind of model, whose tasks, samplers and layers of regions have names of all sorts."""
    cfg = load(file)
    pytest.importorskip(cfg.default_scope)
    check_config(cfg.model.to_dict(), file, cfg.default_scope)
