"""Compile and load the C++ scan, once for each version of its source, of PyTorch and of the processor.

The library is looked for beside this file (a package built beside PyTorch carries it) and in PyTorch's folder of
compiled extensions. It gets there in one step, complete: whoever builds it holds a lock that ends with the process, and
works in a folder that the next one removes. Its name says what it was built for, so a changed PyTorch, processor or
source finds none and builds anew.
"""

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
SOURCES = ('library.cpp', 'scan_forward.h', 'scan_backward.h', 'scan_problem.h', 'conv_silu.h', 'tiles.h', 'vec.h')
# at::parallel_for needs OpenMP; GCC and Clang alone know the vectors of vec.h.
OPENMP = () if sys.platform == 'darwin' else ('-fopenmp',)
FLAGS = ('-O3', '-march=native', '-std=c++20', '-ffp-contract=fast', '-fno-math-errno', '-fno-trapping-math', *OPENMP)
FLAGS_ENV = 'MMVIM_NATIVE_FLAGS'


def compiler() -> str | None:
    """The C++ compiler: ``$CXX``, or g++ or clang++ on the path; None if there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get('CXX', ''), 'g++', 'clang++'))), None)


def available() -> tuple[bool, str]:
    """Whether the backend can run here, and why (not); compiles nothing."""
    if find(library_name()):
        return True, 'C++ on CPUs, compiled'
    reason = obstacle()
    return not reason, reason or 'C++ on CPUs, compiled on first use (about half a minute)'


def obstacle() -> str:
    """What a build would lack, and the remedy; empty if nothing."""
    if compiler() is None:
        return 'no C++ compiler: install g++, or set CXX'
    if _ninja_folder() is None:
        return 'no ninja: pip install ninja'
    folder = cache_folder()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        return f'{folder} cannot be written: set TORCH_EXTENSIONS_DIR to a folder that can'
    return ''


def cache_folder() -> Path:
    """PyTorch's folder of compiled extensions."""
    root = os.environ.get('TORCH_EXTENSIONS_DIR')
    if root:
        return Path(root)
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'torch_extensions'


def find(name: str) -> Path | None:
    """The compiled library of this name, if there is one."""
    return next((path for path in (FOLDER / f'{name}.so', cache_folder() / f'{name}.so') if path.is_file()), None)


def flags() -> list[str]:
    """Of the compiler; those in ``MMVIM_NATIVE_FLAGS`` come last and override."""
    return [*FLAGS, *os.environ.get(FLAGS_ENV, '').split()]


@functools.cache
def library_name() -> str:
    """A name for what the result depends on."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((FOLDER / name).read_bytes())
    cpu = Path('/proc/cpuinfo')
    features = (
        next((line for line in cpu.read_text().splitlines() if line.startswith(('flags', 'Features'))), '')
        if cpu.exists()
        else platform.processor()
    )
    digest.update(repr((torch.__version__, flags(), platform.machine(), features)).encode())
    return f'mmvim_native_{digest.hexdigest()[:12]}'


def build(name: str, source: Path, folder: Path) -> Path:
    """Compile one source file to ``folder/name.so`` and load it, unless another process has just done so.

    Raises:
        OSError: If the folder cannot be written.
        RuntimeError: If the compiler fails; its message is in the text.
    """
    target = folder / f'{name}.so'
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / f'{name}.lock', f'waiting for another process that compiles {name}'):
        if target.is_file():
            torch.ops.load_library(str(target))
            return target
        for abandoned in folder.glob(f'{name}.*.building'):
            shutil.rmtree(abandoned, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f'{name}.', suffix='.building', dir=folder))
        try:
            _say(f'compiling the C++ scan, once (about half a minute): {target}')
            from torch.utils.cpp_extension import load

            with _ninja_on_path():
                load(
                    name=name,
                    sources=[str(source)],
                    extra_cflags=flags(),
                    extra_ldflags=flags(),
                    build_directory=str(work),
                    is_python_module=False,
                    verbose=False,
                )
            os.replace(next(work.glob('*.so')), target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


@functools.cache
def load_library() -> str:
    """Make ``torch.ops.mmvim_native`` exist, built where it must be. Asked again it gives the same answer.

    Returns:
        What went wrong, and the remedy; empty if nothing did.
    """
    name = library_name()
    found = find(name)
    if found is not None:
        try:
            torch.ops.load_library(str(found))
            return ''
        except OSError as error:  # not whole, or built on another system with the same processor
            with contextlib.suppress(OSError):
                found.unlink()
            if found.exists():
                return f'{found} cannot be loaded ({error}): remove it'
    reason = obstacle()
    if reason:
        return reason
    try:
        build(name, FOLDER / 'library.cpp', cache_folder())
    except (OSError, RuntimeError) as error:
        return f'it cannot be compiled: {error}'
    return ''


def _say(text: str) -> None:
    print(f'mmvim: {text}', file=sys.stderr, flush=True)


def _ninja_folder() -> str | None:
    """Where ninja is: on the path, or beside the interpreter of an environment that is not activated."""
    beside = os.path.dirname(sys.executable)
    found = shutil.which('ninja') or shutil.which('ninja', path=beside)
    return os.path.dirname(found) if found else None


@contextlib.contextmanager
def _ninja_on_path() -> Iterator[None]:
    before = os.environ.get('PATH', '')
    os.environ['PATH'] = os.pathsep.join(filter(None, (before, _ninja_folder())))
    try:
        yield
    finally:
        os.environ['PATH'] = before


@contextlib.contextmanager
def _lock(path: Path, notice: str) -> Iterator[None]:
    """Hold a lock that the operating system releases with the process, however it ends."""
    import fcntl

    with path.open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(notice)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: two processes may build, and the last one's result stays
            pass
        yield
