"""`mmvim doctor`: what it says of a sound machine, and that it sees what is broken."""

import importlib.util

import pytest
import torch

from mmvim.cli import installation, selfcheck
from mmvim.cli.commands import doctor
from mmvim.cli.installation import problems
from mmvim.cli.main import main
from mmvim.ops.backends import Backend, Backends
from mmvim.ops.native import build, load
from mmvim.ops.selective_scan import plain
from mmvim.ops.triton_host import device, probe


@pytest.fixture
def broken(monkeypatch):
    """Registers a backend of the scan that computes by a given function."""

    def register(forward):
        implementation = plain.IMPLEMENTATION._replace(forward=forward)
        backend = Backend(implementation, lambda: (True, 'an example'))
        monkeypatch.setitem(Backends.named('selective scan')._found, 'native', backend)

    return register


def report(capsys, *arguments) -> dict[str, list[str]]:
    """The lines of each part."""
    main(['doctor', *arguments])
    return parts(capsys)


def parts(capsys) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in filter(None, capsys.readouterr().out.splitlines()):
        if line.startswith('## '):
            found[line[3:].split(':')[0]] = lines = []
        else:
            lines.append(line)
    return found


def test_a_sound_machine(capsys):
    found = report(capsys)
    assert list(found) == ['machine', 'packages', 'backends', 'checks', 'speed', 'problems']
    assert len(found['checks']) == len(list(selfcheck.placements())) >= 3
    assert all(line.count('e-') == len(selfcheck.DTYPES) for line in found['checks'])
    assert any(line.startswith('torch') and torch.__version__ in line for line in found['packages'])
    assert {line.split()[0] for line in found['speed']} >= {'torch'}
    assert not [line for line in found['problems'] if 'report this' in line]


def test_quick_runs_nothing(capsys, monkeypatch):
    monkeypatch.setattr(doctor, 'check', None)
    monkeypatch.setattr(load, 'why_not', None)
    assert list(report(capsys, '--quick')) == ['machine', 'packages', 'backends', 'problems']


def test_every_op_has_a_check():
    """An op that is added, and that a user can choose a backend of, is checked."""
    assert set(selfcheck.OPS) == set(Backends._ops) - {'doubling', 'thing'}


def test_a_wrong_backend_is_found(broken, capsys):
    def forward(args, save):
        out, *rest = plain.IMPLEMENTATION.forward(args, save)
        return (out * 1.001, *rest)

    broken(forward)
    with pytest.raises(SystemExit) as exit_:
        main(['doctor'])
    assert exit_.value.code == 1
    found = parts(capsys)
    (line,) = [line for line in found['checks'] if line.startswith('selective scan') and ' native ' in line]
    assert 'float32 1e-03 WRONG' in line
    (problem,) = [line for line in found['problems'] if 'float32' in line]
    assert problem.startswith('selective scan, native on cpu, float32: its output is off by 1.0e-03')


def test_nan_is_wrong(broken):
    broken(lambda args, save: (plain.IMPLEMENTATION.forward(args, save)[0] * torch.nan, *plain.forward(args, save)[1:]))
    assert 'off by nan' in selfcheck.check('selective scan', 'native', 'cpu', torch.float32).problem


def test_a_backend_that_fails_is_told(broken):
    def forward(args, save):
        raise OSError('no space left')

    broken(forward)
    result = selfcheck.check('selective scan', 'native', 'cpu', torch.float32)
    assert result.error is None and result.problem == 'it failed: OSError: no space left'


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(load, 'load_library', build.load_library.__wrapped__)
    monkeypatch.setattr(build, 'find', lambda name: None)
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.delenv('CXX', raising=False)
    assert [line for line in doctor.unusable() if 'install g++' in line]


def test_a_gpu_without_triton_and_with_an_old_one(monkeypatch):
    """The CPU stands for the GPU."""
    monkeypatch.setattr(device, 'DEVICES', ('cpu',))
    find = importlib.util.find_spec
    with monkeypatch.context() as context:
        context.setattr(doctor, 'find_spec', lambda name: None if name == 'triton' else find(name))
        context.setattr(device, 'installed', lambda: False)
        assert [line for line in doctor.unusable() if 'pip install triton' in line]
    monkeypatch.setattr(device, 'installed', lambda: True)
    monkeypatch.setattr(probe, 'version_problem', lambda: 'Triton 3.2.0 is too old: install 3.3 or newer')
    assert [line for line in doctor.unusable() if '3.2.0 is too old' in line]


def test_packages_that_are_not_right(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(installation, 'untested', lambda: ['mmengine 0.1'])
    monkeypatch.setattr(installation, 'find_spec', lambda name: None if name == 'mmcv._ext' else find(name))
    monkeypatch.setattr(torch.version, 'cuda', '12.8')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    found = problems()
    for text in ('not tested with mmengine 0.1', 'nvidia-smi', *(['MMCV_WITH_OPS=1'] if find('mmdet') else [])):
        assert [problem for problem in found if text in problem], text
