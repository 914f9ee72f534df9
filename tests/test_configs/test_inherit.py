"""A user's own repository builds on mmvim's configs."""

import copy
import re

import pytest
from checkout import CONFIGS, ROOT
from families import FAMILY_CASES
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from mmengine.runner import Runner

pytestmark = pytest.mark.slow  # other processes

# A recipe of each family.
BASES = {name: next(iter(case.segmentors)) for name, case in FAMILY_CASES.items() if case.segmentors}

OWN_CLASSES = """
_base_ = 'mmvim::{base}'

data_root = 'data/plants'
own_data = dict(
    type='BaseSegDataset',
    data_root=data_root,
    reduce_zero_label=True,  # 0 in the pictures means: not labelled
    metainfo=dict(classes=('leaf', 'stem', 'soil'), palette=[[0, 255, 0], [0, 128, 0], [128, 64, 0]]))
train_dataloader = dict(dataset=own_data)
val_dataloader = dict(dataset=own_data)
test_dataloader = val_dataloader
model = dict(decode_head=dict(num_classes=3), auxiliary_head=dict(num_classes=3))
optim_wrapper = dict(optimizer=dict(lr=3e-5))
"""

OWN_PIPELINE = """
_base_ = '{level_one}'

train_pipeline = _base_.train_pipeline
train_pipeline.insert(-1, dict(type='CLAHE'))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
model = dict(backbone=dict(frozen_stages=2))
"""


@pytest.fixture(scope='module')
def repository(tmp_path_factory, read_as_installed):
    """Configs of a user: one level above mmvim's, and a second that takes a variable over and changes it."""
    root = tmp_path_factory.mktemp('repository') / 'my-project' / 'configs'
    root.mkdir(parents=True)
    files = []
    for family, base in BASES.items():
        files += [root / f'own_{family}.py', root / f'own_{family}_contrast.py']
        files[-2].write_text(OWN_CLASSES.format(base=base))
        files[-1].write_text(OWN_PIPELINE.format(level_one=files[-2].name))
    cfgs = [Config(cfg) for cfg in read_as_installed(files)]
    return dict(zip(BASES, zip(cfgs[::2], cfgs[1::2], strict=True), strict=True))


@pytest.mark.parametrize('family', BASES)
def test_two_levels(family, repository, load):
    base, (own, contrast) = load(BASES[family]), repository[family]
    assert own.model.decode_head.num_classes == 3
    assert own.train_dataloader.dataset.data_root == own.test_dataloader.dataset.data_root == 'data/plants'
    assert own.optim_wrapper.optimizer.lr == 3e-5
    assert own.optim_wrapper.optimizer.weight_decay == base.optim_wrapper.optimizer.weight_decay
    assert own.model.backbone == base.model.backbone

    pipeline = contrast.train_dataloader.dataset.pipeline
    assert [t['type'] for t in pipeline] == [
        *(t['type'] for t in base.train_dataloader.dataset.pipeline[:-1]),
        'CLAHE',
        'PackSegInputs',
    ]
    init_default_scope('mmseg')
    for transform in pipeline:
        TRANSFORMS.build(copy.deepcopy(transform))
    assert contrast.model.backbone.frozen_stages == 2
    assert contrast.model.decode_head.num_classes == 3


@pytest.mark.parametrize('family', BASES)
def test_one_step_from_a_users_config(family, repository, shrink):
    cfg = shrink(repository[family][1])
    assert cfg.optim_wrapper['_scope_'] == 'mmvim', 'read through mmvim::, where every scope must resolve'
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.test().keys() >= {'mIoU', 'aAcc'}
    assert runner.model.decode_head.num_classes == 3
    assert not any(p.requires_grad for p in runner.model.backbone.patch_embed.parameters())


def snippets(page):
    """The configs of segmentors printed in a page, but for those that build on one of the reader's."""
    blocks = re.findall(r'^```python\n(.*?)^```', page.read_text('utf-8'), re.MULTILINE | re.DOTALL)
    return [text for text in blocks if re.search('^_base_ = ', text, re.MULTILINE) and not re.search('_coco|my_', text)]


PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md')), *sorted(CONFIGS.rglob('README.md'))]
# By the folder of a family's README, else by the page's name.
SNIPPETS = [(p.parent.name if CONFIGS in p.parents else p.stem, text) for p in PAGES for text in snippets(p)]
NAMES = [f'{place}-{number}' for number, (place, _) in enumerate(SNIPPETS)]


@pytest.fixture(scope='module')
def pasted(tmp_path_factory, read_as_installed):
    """The configs printed in the READMEs and in the pages of docs/, as a user pastes them."""
    files = [tmp_path_factory.mktemp('pasted') / f'snippet{i}.py' for i in range(len(SNIPPETS))]
    for file, (_, text) in zip(files, SNIPPETS, strict=True):
        file.write_text(text)
    return list(map(Config, read_as_installed(files)))


def settings(cfg, shrink):
    """Map the parameters' names of the small model to (lr / base lr, weight decay), with their dimensions."""
    cfg = shrink(cfg)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    base_lr = cfg.optim_wrapper.optimizer.lr
    groups = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper)).optimizer.param_groups
    of = {id(p): (g['lr'] / base_lr, g['weight_decay']) for g in groups for p in g['params']}
    return {name: (*of[id(p)], p.ndim) for name, p in model.named_parameters()}


def test_every_familys_readme_has_a_snippet():
    assert set(BASES) <= {place for place, _ in SNIPPETS}


@pytest.mark.parametrize('number', range(len(SNIPPETS)), ids=NAMES)
def test_readme_snippets_build(number, pasted, shrink):
    assert settings(pasted[number], shrink)


def snippet(family, words):
    """The number of the one snippet of a family's README with these words."""
    (number,) = (i for i, (place, text) in enumerate(SNIPPETS) if place == family and words in text)
    return number


def test_readme_snippet_with_the_published_optimizer_of_vim(pasted, shrink):
    cfg = pasted[snippet('vim', 'layer_decay_scope')]
    decayed = cfg.optim_wrapper.optimizer.weight_decay
    for name, (scale, weight_decay, ndim) in settings(cfg, shrink).items():
        embedding = name.startswith(('backbone.patch_embed', 'backbone.pos_embed'))
        assert scale == pytest.approx(0.92**25 if embedding else 1), name
        assert weight_decay == (0 if ndim == 1 or name.endswith('.bias') else decayed), name


@pytest.mark.parametrize('family', [place for place, text in SNIPPETS if 'DefaultOptimWrapperConstructor' in text])
def test_readme_snippet_with_the_published_optimizer_of_openmmlab(family, pasted, shrink):
    """No weight decay on what has "norm" in its name, as the recipes of Swin and its heirs have it."""
    cfg = pasted[snippet(family, 'DefaultOptimWrapperConstructor')]
    decayed = cfg.optim_wrapper.optimizer.weight_decay
    for name, (scale, weight_decay, _) in settings(cfg, shrink).items():
        assert scale == 1, name
        assert weight_decay == (0 if 'norm' in name else decayed), name
