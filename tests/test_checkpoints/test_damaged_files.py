"""Damaged and hostile files: whatever the readers of a format make of them, a user sees one CheckpointError."""

import io
import json
import random
import zipfile
from collections import OrderedDict

import pytest
import torch
from checkout import ROOT, load_tool

from mmvim import checkpoints
from mmvim.checkpoints import CheckpointError
from mmvim.checkpoints.files.int8 import INT8, pack

fuzz = load_tool('fuzz.py')


@pytest.fixture
def archive(tmp_path):
    """Save a checkpoint, change some bytes of it, and give its path."""

    def make(*changes):
        stream = io.BytesIO()
        torch.save({'state_dict': {'norm.weight': torch.ones(3)}}, stream)
        data = stream.getvalue()
        for old, new in changes:
            assert old in data
            data = data.replace(old, new)
        (tmp_path / 'file.pth').write_bytes(data)
        return str(tmp_path / 'file.pth')

    return make


ENTRY = b'PK\x01\x02'  # of the list at an archive's end: version made by (2), version needed (2), flags (2), method (2)


def entry(data, offset, value):
    """Change two bytes of every entry."""
    start = data.index(ENTRY)
    while start >= 0:
        data = data[: start + offset] + value + data[start + offset + 2 :]
        start = data.find(ENTRY, start + 1)
    return data


def raised_by_zipfile(path):
    try:
        with zipfile.ZipFile(path) as found:
            found.testzip()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize(
    ('offset', 'value', 'kind'),
    [
        (6, b'\xff\xff', NotImplementedError),  # a version of the format that nobody has
        (10, b'\x63\x00', NotImplementedError),  # a compression that nobody has
        (8, b'\x01\x00', RuntimeError),  # encrypted
    ],
)
def test_what_zipfile_raises(archive, offset, value, kind, tmp_path):
    path = tmp_path / 'file.pth'
    archive()
    path.write_bytes(entry(path.read_bytes(), offset, value))
    assert raised_by_zipfile(path) is kind, 'the control: it is this error that must not come out'
    for look in (checkpoints.load_file, checkpoints.check_bytes, checkpoints.read_for_model):
        try:
            look(str(path))
        except CheckpointError as error:
            assert 'is damaged (' in str(error) and '\n' not in str(error)
    with pytest.raises(CheckpointError, match=f'is damaged .{kind.__name__}'):
        checkpoints.check_bytes(str(path))


def test_names_that_are_no_text(archive, tmp_path):
    path = tmp_path / 'file.pth'
    archive((b'data.pkl', b'dat\xff.pkl'))
    path.write_bytes(entry(path.read_bytes(), 8, b'\x00\x08'))  # the flag that says UTF-8
    assert raised_by_zipfile(path) is UnicodeDecodeError
    for look in (checkpoints.load_file, checkpoints.check_bytes):
        with pytest.raises(CheckpointError, match=r'is damaged .UnicodeDecodeError'):
            look(str(path))


def test_an_archive_of_several_disks(archive, tmp_path):
    """``zipfile.is_zipfile`` raises here, rather than say no."""
    path = tmp_path / 'file.pth'
    archive()
    data = path.read_bytes()
    end = data.index(b'PK\x05\x06')
    locator = b'PK\x06\x07' + bytes(4) + (0).to_bytes(8, 'little') + (9).to_bytes(4, 'little')
    before = data[:end].removesuffix(data[end - 20 : end]) if data[end - 20 : end - 16] == b'PK\x06\x07' else data[:end]
    path.write_bytes(before + locator + data[end:])
    with pytest.raises(zipfile.BadZipFile):
        zipfile.is_zipfile(path)
    with pytest.raises(CheckpointError, match=r'is damaged .BadZipFile'):
        checkpoints.load_file(str(path))


def test_an_archive_that_would_fill_the_memory(tmp_path):
    path = tmp_path / 'bomb.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as packed:
        packed.writestr('archive/data.pkl', b'')
        with packed.open('archive/data/0', 'w') as member:
            for _ in range(300):
                member.write(bytes(1 << 20))
    with pytest.raises(CheckpointError, match='would unpack to 300 MiB, which weights do not'):
        checkpoints.load_file(str(path))


def test_an_index_that_is_nested_too_deeply(tmp_path):
    path = tmp_path / 'model.safetensors.index.json'
    path.write_text('{"weight_map": ' + '[' * 100_000)
    with pytest.raises(CheckpointError, match='is not a checkpoint'):
        checkpoints.load_file(str(path))


@pytest.mark.parametrize('shard', ['a\0b', '\ud800', 'x' * 300])
def test_shards_of_odd_names(tmp_path, shard):
    path = tmp_path / 'model.safetensors.index.json'
    path.write_text(json.dumps({'weight_map': {'w': shard}}))
    with pytest.raises(CheckpointError, match='shard'):
        checkpoints.load_file(str(path))


class Hiding:
    """Its pickle is that of an OrderedDict with attributes."""

    def __init__(self, items, attributes):
        self.items, self.attributes = items, attributes

    def __reduce__(self):
        return OrderedDict, (), self.attributes, None, iter(self.items.items())


def test_attributes_that_hide_methods(tmp_path):
    """A pickle may set any attribute of an OrderedDict, also one of a method's name."""
    path = str(tmp_path / 'file.pth')
    weights = Hiding({'norm.weight': torch.ones(3)}, {'items': 3, 'get': 3, 'keys': 3})
    torch.save(Hiding({'state_dict': weights}, {'items': 'none', 'get': 'none'}), path)
    found = checkpoints.load_file(path)
    assert list(found['state_dict']) == ['norm.weight'] and found.get('epoch') is None
    assert list(checkpoints.read_for_model(path)[0]['state_dict']) == ['norm.weight']


@pytest.mark.parametrize('versions', [3, [1], {'': 3}, {'': {'version': 'two'}}, {'norm': {'version': 2}}])
def test_versions_of_modules(tmp_path, versions):
    path = str(tmp_path / 'file.pth')
    norm = torch.nn.BatchNorm2d(3)
    weights = OrderedDict((f'norm.{name}', value) for name, value in norm.state_dict().items())
    weights._metadata = versions
    torch.save({'state_dict': weights}, path)
    found = checkpoints.read_for_model(path)[0]['state_dict']
    torch.nn.Sequential(OrderedDict(norm=norm)).load_state_dict(found)
    assert found._metadata.get('norm') == (versions.get('norm') if isinstance(versions, dict) else None)


@pytest.mark.parametrize(
    ('weights', 'scales', 'match'),
    [
        ({'w': 3}, {}, 'weights that are no tensors'),
        ({'w': torch.ones((), dtype=torch.int8)}, {'w': torch.ones(())}, 'no scales that fit w'),
        ({'w': torch.ones(2, 2, dtype=torch.int8)}, {'w': 3}, 'no scales that fit w'),
    ],
)
def test_odd_weights_of_8_bits(tmp_path, weights, scales, match):
    path = str(tmp_path / 'file.pth')
    torch.save({'format': INT8, 'weights': weights, 'scales': scales}, path)
    with pytest.raises(CheckpointError, match=match):
        checkpoints.load_file(path)
    whole = pack({'head.weight': torch.ones(64, 32)})
    torch.save(whole, path)
    assert checkpoints.load_file(path)['state_dict']['head.weight'].dtype == torch.float32


def test_keys_of_several_kinds(tmp_path):
    path = str(tmp_path / 'file.pth')
    torch.save({1: {'w': torch.ones(1)}, 'ema': {'w': torch.ones(1)}, None: {'w': torch.ones(1)}}, path)
    with pytest.raises(CheckpointError, match=r"lie under \['1', 'None', 'ema'\]"):
        checkpoints.read_for_model(path)
    with pytest.raises(CheckpointError, match="no weights under key='model'"):
        checkpoints.read_for_model(path, key='model')


# --- by chance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('target', fuzz.TARGETS)
def test_by_chance(target, tmp_path):
    """Some of what ``python tools/fuzz.py`` does for an hour."""
    fuzz.make_seeds(target, tmp_path / 'seeds')
    seeds, rng = fuzz.inputs(tmp_path / 'seeds'), random.Random(5)
    for data in (*seeds, *(fuzz.damage(rng.choice(seeds), rng) for _ in range(150))):
        fuzz.TRY[target](data, tmp_path)


def test_what_once_failed():
    assert fuzz.replay(ROOT / 'tests/corpus', limit=20) == []


def test_a_replay_of_nothing_is_no_success(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['fuzz.py', '--replay', str(tmp_path / 'gone')])
    with pytest.raises(SystemExit) as stop:
        fuzz.main()
    assert stop.value.code == 2 and f'--replay {tmp_path / "gone"}: there is no input in' in capsys.readouterr().err


def test_seeds_are_whole(tmp_path):
    """The control: an input that no reader takes would be damaged in vain."""
    fuzz.make_seeds('checkpoint', tmp_path)
    for path in sorted(tmp_path.glob('*')):
        assert checkpoints.load_file(str(path))


@pytest.mark.parametrize('target', fuzz.TARGETS)
def test_a_foreign_exception_is_a_finding(target, tmp_path, monkeypatch):
    (tmp_path / target).mkdir()
    (tmp_path / target / 'input').write_bytes(b'x=1')

    def fail(*args, **kwargs):
        raise UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'invalid start byte')

    monkeypatch.setattr(checkpoints, 'load_file', fail)
    monkeypatch.setattr('mmvim.cli.options.merge_options', fail)
    (line,) = fuzz.replay(tmp_path, limit=20)
    assert line.startswith(f'{target}/input: UnicodeDecodeError: ')


def test_an_input_that_takes_too_long(tmp_path, monkeypatch):
    (tmp_path / 'options').mkdir()
    (tmp_path / 'options/input').write_bytes(b'x=1')

    def wait(*args):
        while True:
            pass

    monkeypatch.setitem(fuzz.TRY, 'options', wait)
    (line,) = fuzz.replay(tmp_path, limit=1)
    assert 'Overtime: longer than 1 s' in line
