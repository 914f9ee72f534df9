"""How the C++ scan comes to be there: built once, whole or not at all, and done without where it cannot be built.

A source of one line stands for the scan here, so that a build takes a second.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmvim.ops import backends, selective_scan
from mmvim.ops.native import build, load

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,  # builds
    pytest.mark.skipif(bool(build.obstacle()), reason=build.obstacle()),
]


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A tiny library's source; the cache is a folder of the test's own, and nothing has been loaded yet."""
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path / 'cache'))
    file = tmp_path / 'source' / 'library.cpp'
    file.parent.mkdir()
    file.write_text('extern "C" int mmvim_test() { return 1; }\n')
    for function_ in (build.library_name, build.load_library):
        function_.cache_clear()
    yield file
    for function_ in (build.library_name, build.load_library):
        function_.cache_clear()


@pytest.fixture
def tiny(source, monkeypatch):
    """The package has only that source."""
    monkeypatch.setattr(build, 'FOLDER', source.parent)
    monkeypatch.setattr(build, 'SOURCES', ('library.cpp',))
    return source


def test_built_once(tiny, capfd):
    assert build.available() == (True, 'C++ on CPUs, compiled on first use (about half a minute)')
    assert build.load_library() is None
    # A PyTorch for GPUs may tell of a compiler for them, too.
    said = [line for line in capfd.readouterr().err.splitlines() if 'No CUDA runtime is found' not in line]
    assert len(said) == 1 and 'compiling the C++ scan' in said[0]
    assert build.available() == (True, 'C++ on CPUs, compiled')
    build.load_library.cache_clear()
    assert build.load_library() is None and capfd.readouterr().err == ''
    assert sorted(path.suffix for path in build.cache_folder().iterdir()) == ['.lock', '.so']


def test_a_changed_source_pytorch_or_flag_is_another_library(tiny, monkeypatch):
    names = [build.library_name()]

    def again():
        build.library_name.cache_clear()
        names.append(build.library_name())

    again()
    assert names[0] == names[1]
    tiny.write_text(tiny.read_text().replace('1', '2'))
    again()
    monkeypatch.setattr(torch, '__version__', '99.0')
    again()
    monkeypatch.setenv(build.FLAGS_ENV, '-O0')
    again()
    assert len(set(names)) == 4


def test_what_an_interrupted_build_leaves_is_removed(tiny):
    name, cache = build.library_name(), build.cache_folder()
    left = cache / f'{name}.old.building'
    left.mkdir(parents=True)
    (left / f'{name}.so').write_bytes(b'half')
    (left / 'lock').touch()  # PyTorch's own, which would be waited for for ever
    (cache / f'{name}.lock').touch()
    assert build.load_library() is None
    assert not left.exists() and build.find(name)


def test_a_library_that_is_not_whole_is_built_anew(tiny):
    name, cache = build.library_name(), build.cache_folder()
    cache.mkdir(parents=True)
    (cache / f'{name}.so').write_bytes(b'half')
    assert build.load_library() is None
    assert (cache / f'{name}.so').stat().st_size > 1000


def test_one_that_lies_beside_the_package_is_taken(tiny, capfd):
    built = build.build(build.library_name(), tiny, build.cache_folder())
    os.replace(built, tiny.parent / built.name)
    capfd.readouterr()
    assert build.load_library() is None and capfd.readouterr().err == ''


def test_two_processes_at_once_build_once(source):
    code = (
        'import sys; from pathlib import Path; from mmvim.ops.native import build; '
        f'print(build.build("mmvim_test", Path({str(source)!r}), build.cache_folder()))'
    )
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert len({out for out, _ in results}) == 1
    assert sum('compiling' in err for _, err in results) == 1


def test_a_process_that_is_killed_does_not_block_the_next(source):
    code = (
        'import time; from mmvim.ops.native import build; '
        'build.cache_folder().mkdir(); '
        'lock = build._lock(build.cache_folder() / "mmvim_test.lock", ""); lock.__enter__(); '
        'print("held", flush=True); time.sleep(60)'
    )
    with subprocess.Popen(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)}
    ) as process:
        assert process.stdout.readline() == 'held\n'
        process.kill()
    assert build.build('mmvim_test', source, build.cache_folder()).is_file()


def scan(backend=None):
    u = torch.ones(1, 2, 3)
    return selective_scan(u, u, -torch.ones(2, 1), u[:, :1], u[:, :1], backend=backend)


@pytest.fixture
def unlucky(tiny, monkeypatch):
    """The scan cannot be built: what `auto` and an explicit choice do then."""
    monkeypatch.delenv('MMVIM_SCAN_BACKEND', raising=False)
    load.warn_once.cache_clear()

    def check(reason):
        assert not backends()['native'][0] or 'compiled on first use' in backends()['native'][1]
        with pytest.warns(RuntimeWarning, match=reason) as caught:
            first, second = scan(), scan()
        assert len(caught) == 1, 'one warning, not one a call'
        assert torch.equal(first, scan('torch')) and torch.equal(second, first)
        with pytest.raises(ValueError, match=f"backend 'native' of the selective scan cannot run here.*{reason}"):
            scan('native')

    yield check
    load.warn_once.cache_clear()


def test_no_compiler(unlucky, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.delenv('CXX', raising=False)
    assert backends()['native'] == (False, 'no C++ compiler: install g++, or set CXX')
    unlucky('no C.. compiler: install g..')


def test_a_source_that_does_not_compile(unlucky, tiny):
    tiny.write_text('this is not C++\n')
    unlucky('it cannot be compiled')
    assert not list(build.cache_folder().glob('*.building'))


def test_a_cache_that_cannot_be_written(unlucky, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda path, mode: mode != os.W_OK)  # root may write anywhere, and runs tests too
    unlucky('cannot be written: set TORCH_EXTENSIONS_DIR')


def test_a_cache_below_a_file_cannot_be_written(unlucky, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path / 'file' / 'cache'))
    unlucky('cannot be written|cannot be compiled|Not a directory')


def test_a_read_only_cache_that_has_the_library_serves(tiny, capfd):
    build.build(build.library_name(), tiny, build.cache_folder())
    build.cache_folder().chmod(0o500)
    capfd.readouterr()
    assert build.load_library() is None and capfd.readouterr().err == ''
    build.cache_folder().chmod(0o700)


def test_the_package_names_the_real_sources():
    folder = Path(build.__file__).parent
    assert {path.name for path in folder.iterdir() if path.suffix in ('.cpp', '.h')} == set(build.SOURCES)


def test_built_without_file_locks(tiny, monkeypatch):
    """Windows has no fcntl."""
    monkeypatch.setitem(sys.modules, 'fcntl', None)
    assert build.load_library() is None


def test_no_file_locks_and_no_build(unlucky, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, 'fcntl', None)
    tiny.write_text('this is not C++\n')
    unlucky('it cannot be compiled')


@pytest.mark.full
def test_the_scan_runs_without_file_locks(source, monkeypatch):
    """The real one, compiled anew, in a process that has not loaded it."""
    code = (
        'import sys; sys.modules["fcntl"] = None; import torch; from mmvim.ops import selective_scan; '
        'u = torch.rand(1, 2, 3); scan = lambda name: selective_scan(u, u, -u[0, :, :1], u[:, :1], u[:, :1], '
        'backend=name); torch.testing.assert_close(scan("native"), scan("torch"))'
    )
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), build.FLAGS_ENV: '-O1'}
    result = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and 'compiling the C++ scan' in result.stderr, result.stderr[-2000:]


def test_no_headers(unlucky, monkeypatch, tmp_path):
    """A compiler that finds the headers of nothing."""
    compiler = tmp_path / 'c++'
    compiler.write_text('#!/bin/sh\necho "fatal error: torch/library.h: No such file or directory" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CXX', str(compiler))
    unlucky('it cannot be compiled')


def test_whatever_a_build_raises_is_a_reason(tiny, monkeypatch):
    """PyTorch looks at the compiler itself, and lets the errors of subprocess and of its own pass."""

    def fail(*args, **options):
        raise subprocess.CalledProcessError(1, 'c++ --version')

    monkeypatch.setattr('torch.utils.cpp_extension.load', fail)
    assert build.load_library().startswith('it cannot be compiled: Command')
