"""Every config reads, locally and through ``mmvim::``, and says what a recipe must say."""

import re

import pytest
from checkout import CONFIGS
from families import FAMILY_CASES, each
from mmengine.registry import Registry

import mmvim.registry


def walk(node, path=''):
    """Yield every dict of a config with its path."""
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from walk(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from walk(value, f'{path}[{i}]')


def without_scope(node):
    if isinstance(node, dict):
        return {key: without_scope(value) for key, value in node.items() if key != '_scope_'}
    if isinstance(node, (list, tuple)):
        return type(node)(without_scope(value) for value in node)
    return node


@pytest.fixture(scope='session')
def own_names() -> set[str]:
    """Names in mmvim's registries, which a config must write with the prefix."""
    registries = [r for r in vars(mmvim.registry).values() if isinstance(r, Registry) and r.scope == 'mmvim']
    for registry in registries:
        registry.import_from_location()
    names = {  # CheckpointHook and others that MMEngine has as well stand for its own
        name
        for registry in registries
        for name in registry.module_dict
        if registry.parent is None or name not in registry.parent.module_dict
    }
    backbones = {case.backbone.__name__ for case in FAMILY_CASES.values()}
    assert {*backbones, 'LearningRateDecayOptimWrapperConstructor'} <= names
    return names


def test_reads_and_every_own_type_has_the_prefix(config_file, load, own_names):
    cfg = load(config_file)
    assert cfg.default_scope in ('mmseg', 'mmdet', 'mmpretrain')
    for path, node in walk(cfg.to_dict()):
        for key in ('type', 'constructor'):
            assert node.get(key) not in own_names, f'{path}.{key}={node[key]!r} lacks the prefix mmvim.'


@pytest.mark.slow
def test_same_through_the_package(read_as_installed, tmp_path, load):
    names = [str(f.relative_to(CONFIGS)) for f in sorted(CONFIGS.glob('*/*.py')) if f.parent.name != '_base_']
    users = []
    for i, name in enumerate(names):
        users.append(tmp_path / f'user{i}.py')
        users[-1].write_text(f"_base_ = 'mmvim::{name}'\n")
    for name, cfg in zip(names, read_as_installed(users), strict=True):
        assert without_scope(cfg) == without_scope(load(name).to_dict()), name
        assert cfg['model'].get('_scope_') != 'mmvim', f'{name}: model is not built on a base of mmseg or mmdet'


def test_no_dict_of_another_library_gets_mmvims_scope(full_config, load):
    """Read through ``mmvim::``, an outermost dict with a type and no scope gets ``_scope_='mmvim'``.

    Allowed only where mmvim's registry, or the root that it falls back to, knows the type.
    """
    root = {
        'LinearLR',
        'PolyLR',
        'CosineAnnealingLR',
        'MultiStepLR',
        'OptimWrapper',
        'AmpOptimWrapper',
        'AdamW',
        'CheckpointHook',
        'LoggerHook',
        'IterTimerHook',
        'ParamSchedulerHook',
        'DistSamplerSeedHook',
        'TestLoop',
        'ValLoop',
        'IterBasedTrainLoop',
        'EpochBasedTrainLoop',
        'LocalVisBackend',
        'DefaultSampler',
        'InfiniteSampler',
    }

    def outermost(node):
        if isinstance(node, dict):
            if 'type' in node:
                yield node
            else:
                for value in node.values():
                    yield from outermost(value)
        elif isinstance(node, (list, tuple)):
            for value in node:
                yield from outermost(value)

    for node in outermost(load(full_config).to_dict()):
        name = node['type']
        assert node.get('_scope_') in ('mmseg', 'mmdet') or name in root or name.startswith('mmvim.'), node


def test_entry_is_one_line_to_a_full_named_config(entry, load):
    text = (CONFIGS / entry).read_text()
    (base,) = re.findall(r"^_base_ = '\./(\S+)'$", text, re.MULTILINE)
    assert '/' in base
    assert len(text.splitlines()) == 2
    assert load(entry).to_dict() == load(base).to_dict()


def test_entries_that_a_user_types():
    names = {f.name for f in CONFIGS.glob('*.py')}
    for model in ('vim_t', 'vim_s', 'vim_b', 'mambavision_t', 'mambavision_s', 'mambavision_b', 'mambavision_l3'):
        assert f'upernet_{model}_ade20k.py' in names


def test_names():
    files = list(CONFIGS.rglob('*.py'))
    stems = [f.stem for f in files]
    assert len(stems) == len(set(stems)), 'mim finds a config by its basename'
    for f in files:
        assert '.' not in f.stem, f'{f}: MMEngine cuts the name at the first dot'
        assert re.fullmatch(r'\w+', f.parent.name), f'{f}: `mmvim::` wants a folder of letters, digits and underscores'


def test_recipe(segmentor_recipe, load):
    """What the name promises, and the parts that must agree."""
    cfg = load(segmentor_recipe)
    promise = re.search(r'_(\d+)xb(\d+)(?:-amp)?-(\d+)k_ade20k-(\d+)x', segmentor_recipe)
    gpus, images, iterations, size = map(int, promise.groups())
    assert cfg.train_cfg.max_iters == iterations * 1000
    assert cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr == {'enable': False, 'base_batch_size': gpus * images}
    warmup, decay = cfg.param_scheduler
    assert (warmup.type, warmup.start_factor, warmup.begin, warmup.end) == ('LinearLR', 1e-6, 0, 1500)
    assert (decay.type, decay.power, decay.begin, decay.end) == ('PolyLR', 1.0, 1500, cfg.train_cfg.max_iters)
    assert not warmup.by_epoch and not decay.by_epoch
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval

    assert cfg.crop_size == cfg.model.data_preprocessor['size'] == (size, size)
    (crop,) = [t for t in cfg.train_dataloader.dataset.pipeline if t['type'] == 'RandomCrop']
    assert crop['crop_size'] == cfg.crop_size
    assert cfg.test_dataloader.dataset.pipeline[1]['scale'] == (4 * size, size)
    assert (cfg.optim_wrapper.type == 'AmpOptimWrapper') == ('-amp-' in segmentor_recipe)
    assert cfg.optim_wrapper.constructor == 'mmvim.LearningRateDecayOptimWrapperConstructor'

    assert cfg.model.pretrained is None and 'init_cfg' not in cfg.model.backbone, 'training needs no network'
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 150
    assert cfg.tta_model.type == 'SegTTAModel'
    assert cfg.tta_pipeline[-1]['type'] == 'TestTimeAug'


@pytest.mark.parametrize(('family', 'file'), each('segmentors'))
def test_published_figures(family, file, load):
    cfg, figures = load(file), FAMILY_CASES[family].segmentors[file]
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == 'AdamW' and optimizer.betas == (0.9, 0.999)
    assert (optimizer.lr, optimizer.weight_decay) == (figures.lr, figures.weight_decay)
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == figures.layer_decay
    assert cfg.auto_scale_lr.base_batch_size == figures.batch
