"""Which new keys of --cfg-options are errors, which give a warning, and which are known to be read."""

import contextlib

import pytest
from mmengine.config import Config

from mmvim.cli import UserError
from mmvim.cli.options import _read_by_name, find_types, merge_options

CONFIG = {
    'default_scope': 'mmvim',
    'data_root': 'data/x',
    'norm_cfg': {'type': 'BN'},
    'model': {
        'type': 'Vim',
        'arch': {'embed_dims': 8, 'depth': 2},
        'norm_cfg': {'type': 'LN2d', 'eps': 1e-6},
        'init_cfg': None,
        'test_cfg': {'mode': 'whole'},
    },
    'train_dataloader': {'batch_size': 2, 'num_workers': 1, 'dataset': {'pipeline': [{'type': 'Resize', 'scale': 8}]}},
    'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'AdamW', 'lr': 1e-3}, 'clip_grad': None},
    'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'interval': 1}},
    'env_cfg': {'dist_cfg': {'backend': 'gloo'}},
    'train_cfg': {'by_epoch': True, 'max_epochs': 2},
    'pair': ({'a': 1},),
}


def merge(*options):
    return merge_options(Config(CONFIG), dict(option.split('=') for option in options))


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        # a near miss of what is there
        ('modle.arch=x', "the config has no 'modle'; did you mean model?"),
        ('data_rot=x', 'did you mean data_root?'),
        ('train_dataloader.batchsize=1', 'did you mean train_dataloader.batch_size?'),
        ('model.test_cfg.modes=x', 'did you mean model.test_cfg.mode?'),
        ('train_cfg.max_epoch=1', 'did you mean train_cfg.max_epochs?'),
        ('env_cfg.dist_cfg.backends=x', 'did you mean env_cfg.dist_cfg.backend?'),
        # of what is there by default
        ('randomness.sed=1', 'did you mean randomness.seed?'),
        # not in a signature
        ('model.drop_path=1', "Vim has no 'drop_path'; did you mean model.drop_path_rate?"),
        ('model.colour=1', "Vim has no 'colour'; known are "),
        ('optim_wrapper.optimizer.learning_rate=1', "AdamW has no 'learning_rate'"),
        ('optim_wrapper.optimzer.lr=1', 'did you mean optim_wrapper.optimizer?'),
        # where **kwargs may go anywhere, only a near miss
        ('default_hooks.checkpoint.intervall=1', 'did you mean default_hooks.checkpoint.interval?'),
        # no parent
        ('zebra.stripes=1', "the config has no 'zebra'"),
        ('modle.type=x', 'did you mean model?'),
        ('default_hooks.ema.momentum=1', "default_hooks has no 'ema'; known are checkpoint"),
        ('env_cfg.zebra.stripes=1', "env_cfg has no 'zebra'"),
        # not that way
        ('train_dataloader.dataset.pipeline.1.scale=1', 'is a list of 1 and has no index'),
        ('train_dataloader.dataset.pipeline.x.scale=1', 'is a list of 1 and has no index'),
        ('data_root.x=1', "data_root is 'data/x', not a dict; set data_root itself"),
        ('pair.0.a=1', 'not a dict; set pair itself'),
    ],
)
def test_errors(option, words):
    with pytest.raises(UserError) as error:
        merge(option)
    assert str(error.value).startswith(f'--cfg-options {option.split("=")[0]}: ') and words in str(error.value)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        # what MMEngine does with them depends on their order
        ({'model': 3, 'model.arch.x': 2}, '--cfg-options model model.arch.x: '),
        ({'train_dataloader.dataset.pipeline': [1], 'train_dataloader.dataset.pipeline.0': 2}, 'pipeline.0: '),
        ({'data_root': [1], 'data_root.0': 2}, 'data_root.0: '),
        ({'train_dataloader.dataset.pipeline.²': 2}, 'is a list of 1 and has no index'),
        ({f'train_dataloader.dataset.pipeline.{"9" * 5000}': 2}, 'is a list of 1 and has no index'),
    ],
)
def test_words_that_no_config_can_take(options, words):
    with pytest.raises(UserError) as error:
        merge_options(Config(CONFIG), options)
    assert words in str(error.value)


def test_a_key_of_a_thousand_parts():
    with pytest.raises(UserError, match=r'model\.init_cfg\.x.*\.\.\.: a setting in 1102 dicts.*64 or fewer'):
        merge_options(Config(CONFIG), {'model.init_cfg' + '.x' * 1100: 1})


@pytest.mark.parametrize(
    'options',
    [
        {'model.arch.x': 2, 'model': 3},
        {'env_cfg.new.c': 1, 'env_cfg.new': 3},
        {'model._scope_': [1], 'model.drop_path_rate': 0.1},
        {'model.type': '..Vim', 'model.colour': 1},
    ],
)
def test_options_that_replace_one_another(options):
    with contextlib.suppress(UserError):
        merge_options(Config(CONFIG), options)


@pytest.mark.parametrize(
    'option',
    [
        'model.drop_path_rate=1',
        'model.type=MambaVision',
        'model._delete_=True',
        'optim_wrapper.accumulative_counts=2',
        'optim_wrapper.paramwise_cfg.norm_decay_mult=0',
        'optim_wrapper.constructor=x',
        'optim_wrapper.clip_grad.max_norm=1',
        'default_hooks.checkpoint.priority=LOW',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        'train_dataloader.sampler.type=InfiniteSampler',
        'train_dataloader.persistent_workers=True',
        'find_unused_parameters=True',
        'randomness.seed=1',
        'auto_scale_lr.base_batch_size=8',
        'resume=True',
        'runner_type=FlexibleRunner',
        'tta_model.type=SegTTAModel',
        'custom_imports.imports=x',
    ],
)
def test_known_keys(option, capsys):
    merged = merge(option)
    key, value = option.split('=')
    for part in key.split('.'):
        merged = merged.get(part)
    assert key == 'model._delete_' or merged == value
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    'option',
    [
        'zebra=1',
        'train_dataloader.pin_memory=True',
        'env_cfg.dist_cfg.timeout=10',
        'model.norm_cfg.requires_grad=False',
    ],
)
def test_warnings(option, capsys):
    merge(option)
    key = option.split('=')[0]
    said = capsys.readouterr().err
    assert said.startswith(f'warning: --cfg-options {key}: ') and f'no {key.split(".")[-1]!r} so far' in said


def test_a_part_that_options_add_is_checked_by_its_type(capsys):
    merged = merge('default_hooks.ema.type=EMAHook', 'default_hooks.ema.begin_iter=5')
    assert merged.default_hooks.ema == {'type': 'EMAHook', 'begin_iter': '5'}
    assert "default_hooks has had no 'ema' so far" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"EMAHook has no 'begin_itr'; did you mean default_hooks\.ema\.begin_iter\?"):
        merge('default_hooks.ema.type=EMAHook', 'default_hooks.ema.begin_itr=5')
    capsys.readouterr()
    with pytest.raises(UserError, match=r'did you mean model\.init_cfg\.checkpoint\?'):
        merge('model.init_cfg.type=Pretrained', 'model.init_cfg.chekpoint=x')
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('option', ['data_root=x', 'norm_cfg.type=SyncBN'])
def test_variables_of_the_file(option, capsys):
    merge(option)
    top = option.partition('=')[0].partition('.')[0]
    assert f'{top} is only a variable of the config file' in capsys.readouterr().err


def test_options_that_contradict_each_other():
    with pytest.raises(UserError, match='name settings that the config has'):
        merge('model.arch=1', 'model.arch.depth=3')


def test_the_config_is_left_alone():
    cfg = Config(CONFIG)
    merge_options(cfg, {'model.init_cfg.type': 'Pretrained', 'optim_wrapper.clip_grad.max_norm': 1})
    assert cfg.to_dict() == Config(CONFIG).to_dict()


def test_what_mmengine_reads_is_found_in_its_sources():
    known = {'paramwise_cfg', 'constructor', 'priority', 'convert_to_iter_based', 'sampler', 'find_unused_parameters'}
    assert known | {'tta_model', 'tta_pipeline', 'runner_type', 'custom_imports', 'strategy'} <= _read_by_name()
    assert _read_by_name().isdisjoint({'data_root', 'norm_cfg', 'crop_size', 'depth'})


def test_classes_behind_a_type():
    assert [cls.__name__ for cls in find_types({'type': 'mmvim.Vim'}, 'mmengine')] == ['Vim']
    assert [cls.__name__ for cls in find_types({'type': 'Vim', '_scope_': 'mmvim'}, 'mmengine')] == ['Vim']
    assert [cls.__name__ for cls in find_types({'type': 'AdamW'}, 'mmvim')] == ['AdamW']
    assert find_types({'type': dict}, None) == [dict]
    for name in ('Vom', 'nowhere.Vim', '', None):
        assert find_types({'type': name}, 'mmvim') == []
