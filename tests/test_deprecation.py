"""Old names of arguments: they work, warn once, are seen by the checks of options, and end after two minor versions."""

import importlib
import pkgutil
import warnings

import pytest
from mmengine.registry import Registry

import mmvim
from mmvim import _deprecation
from mmvim._deprecation import old_names, overdue, renamed_arguments
from mmvim.cli import options

# What modules of extras import; elsewhere they are left out.
OPTIONAL = ('triton', 'onnxscript', 'onnx', 'onnxruntime', 'openvino', 'tifffile', 'transformers', 'gradio', 'trackio')
OPTIONAL += ('huggingface_hub', 'tensorboard')


@pytest.fixture(autouse=True)
def own_record(monkeypatch):
    monkeypatch.setattr(_deprecation, 'RENAMED', [])
    monkeypatch.setattr(_deprecation, '_warned', set())


def make():
    class Layer:
        @renamed_arguments('0.3', rate='drop_rate', width='dims')
        def __init__(self, dims, drop_rate=0.0):
            self.dims, self.drop_rate = dims, drop_rate

    return Layer


def test_old_names_work_and_warn_once():
    layer = make()
    with pytest.warns(FutureWarning) as seen:
        made = [layer(8, rate=0.1), layer(8, rate=0.2), layer(width=4)]
    assert [(one.dims, one.drop_rate) for one in made] == [(8, 0.1), (8, 0.2), (4, 0.0)]
    texts = [str(warning.message) for warning in seen]
    assert len(texts) == 2 and all(warning.filename == __file__ for warning in seen)
    assert texts[0].endswith('Layer: rate is called drop_rate since mmvim 0.3; the old name works until 0.5')


def test_new_names_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert make()(8, drop_rate=0.1).drop_rate == 0.1


def test_both_names_are_an_error():
    with pytest.raises(TypeError, match='got drop_rate and its old name rate; omit rate'):
        make()(8, drop_rate=0.1, rate=0.1)
    with pytest.raises(TypeError, match='multiple values'), pytest.warns(FutureWarning):
        make()(8, 0.1, rate=0.1)


def test_a_config_may_use_them():
    registry = Registry('layers')
    registry.register_module(name='Layer', module=make())
    with pytest.warns(FutureWarning, match='called drop_rate'):
        assert registry.build({'type': 'Layer', 'dims': 8, 'rate': 0.1}).drop_rate == 0.1


def test_the_checks_of_options_know_them():
    known, certain = options._arguments([make()])
    assert set(known) == {'self', 'dims', 'drop_rate', 'rate', 'width'} and certain


@pytest.mark.parametrize(
    ('since', 'renamed', 'match'),
    [
        ('0.3', {'rate': 'droprate'}, 'takes dims, drop_rate: rate cannot have become droprate'),
        ('0.3', {'dims': 'drop_rate'}, 'dims cannot have become drop_rate'),
        ('next', {'rate': 'drop_rate'}, "since='next' is not a version"),
    ],
)
def test_wrong_use(since, renamed, match):
    with pytest.raises(ValueError, match=match):

        @renamed_arguments(since, **renamed)
        def function(dims, drop_rate): ...


def test_they_end_after_two_minor_versions():
    make()
    assert overdue('0.3.0') == overdue('0.4.9') == []
    assert {entry.old for entry in overdue('0.5.0')} == {entry.old for entry in overdue('1.0.0')} == {'rate', 'width'}


def test_none_of_this_version_is_overdue(monkeypatch):
    """Whatever a module renames is in the record once it is imported; the kernels alone need Triton."""
    monkeypatch.undo()  # the real record
    for module in pkgutil.walk_packages(mmvim.__path__, 'mmvim.'):
        if not module.name.endswith('__main__') and 'mmvim_native' not in module.name:  # that is a library of operators
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                assert error.name in OPTIONAL, error
    assert overdue(mmvim.__version__) == []
    assert old_names(make) == {}
