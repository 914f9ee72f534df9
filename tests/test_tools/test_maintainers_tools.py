"""What the tools for maintainers say where something does not answer, or is not there."""

import os

import pytest
from checkout import ROOT, load_tool


@pytest.fixture
def uv(tmp_path, monkeypatch):
    """Put a uv that does as told before all others."""

    def put(script):
        (tmp_path / 'uv').write_text(f'#!/bin/sh\n{script}\n')
        (tmp_path / 'uv').chmod(0o755)
        monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
        return load_tool('pin_hashes.py')

    return put


def test_an_index_that_does_not_answer(uv, monkeypatch):
    tool = uv('exec sleep 5')
    monkeypatch.setattr(tool, 'LIMIT', 0.5)
    with pytest.raises(
        SystemExit, match=r'error: uv has no sums of a\.txt after 0\.5 s; see whether the index answers'
    ):
        tool.resolve('a==1\n', 'a.txt')


def test_a_pin_that_nobody_has(uv):
    tool = uv('echo there is no version a==1 >&2; exit 1')
    with pytest.raises(SystemExit, match=r'the pins of a\.txt: there is no version a==1; correct them'):
        tool.resolve('a==1\n', 'a.txt')


def test_a_build_that_does_not_end(tmp_path, monkeypatch):
    tool = load_tool('build_dist.py')
    monkeypatch.setattr(tool, 'HOOKS', 'import time; time.sleep(5); print("a")')
    monkeypatch.setattr(tool, 'LIMIT', 0.5)
    with pytest.raises(SystemExit, match=r'error: build_sdist has not ended after 0\.5 s; see what it waits for'):
        tool.build(tmp_path, tmp_path / 'out', 7)


@pytest.mark.parametrize(
    ('name', 'words', 'message'),
    [
        ('build_dist.py', ['--commit', 'gone'], f'--commit gone is no commit of {ROOT}; give a branch, a tag'),
        ('licences.py', ['--check', '--path', 'gone'], '--path gone is no folder; give one that pip install'),
    ],
)
def test_what_is_not_there(name, words, message, monkeypatch, capfd):
    tool = load_tool(name)
    monkeypatch.setattr(tool, 'check_setuptools', lambda pins: None, raising=False)
    monkeypatch.setattr('sys.argv', [name, *words])
    with pytest.raises(SystemExit) as stop:
        tool.main()
    said = capfd.readouterr().err
    assert stop.value.code == 2 and message in said and 'fatal' not in said
