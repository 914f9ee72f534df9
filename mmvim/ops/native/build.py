"""Compile and load the C++ library, once for each version of its source, of PyTorch and of the processor.

The library is looked for beside this file, where a package that was built beside PyTorch carries it, and in PyTorch's
folder of compiled extensions. It is built in a temporary folder and moved into place atomically. The builder holds a
file lock, which the operating system releases if the process dies; the next builder removes what a dead one left. The
library's name depends on what it was built for, so after a change of PyTorch, processor or source it is built anew.
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
SOURCES = (
    'library.cpp',
    'bi_wkv.h',
    'bi_wkv_backward.h',
    'bi_wkv_sums.h',
    'conv_silu.h',
    'scan_backward.h',
    'scan_forward.h',
    'scan_problem.h',
    'tiles.h',
    'vec.h',
)
# at::parallel_for needs OpenMP; GCC and Clang alone know the vectors of vec.h.
OPENMP = () if sys.platform == 'darwin' else ('-fopenmp',)
FLAGS = ('-O3', '-march=native', '-std=c++20', '-ffp-contract=fast', '-fno-math-errno', '-fno-trapping-math', *OPENMP)
FLAGS_ENV = 'MMVIM_NATIVE_FLAGS'


def compiler() -> str | None:
    """Return the path of the C++ compiler: ``$CXX``, or g++ or clang++ on the path; None if there is none.

    Examples:
        >>> compiler() is None or os.path.isabs(compiler())
        True
    """
    return next(filter(None, map(shutil.which, (os.environ.get('CXX', ''), 'g++', 'clang++'))), None)


def available() -> tuple[bool, str]:
    """Check whether the library is compiled or can be. Compiles nothing.

    Returns:
        Whether it is, and a sentence that says how it is used or why it cannot be.

    Examples:
        >>> usable, reason = available()
        >>> usable == (not obstacle() or find(library_name()) is not None)
        True
    """
    if find(library_name()):
        return True, 'C++ on CPUs, compiled'
    reason = obstacle()
    return not reason, reason or 'C++ on CPUs, compiled on first use (about half a minute)'


def obstacle() -> str:
    """Return what is missing for a build, with the remedy; an empty text if nothing is.

    Examples:
        >>> isinstance(obstacle(), str)
        True
    """
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
    """Return PyTorch's folder of compiled extensions: ``TORCH_EXTENSIONS_DIR``, or a folder in the user's cache.

    Examples:
        >>> 'TORCH_EXTENSIONS_DIR' in os.environ or cache_folder().name == 'torch_extensions'
        True
    """
    root = os.environ.get('TORCH_EXTENSIONS_DIR')
    if root:
        return Path(root)
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'torch_extensions'


def find(name: str) -> Path | None:
    """Return the path of the compiled library of this name, or None if there is none.

    Examples:
        >>> find('not_built') is None
        True
    """
    return next((path for path in (FOLDER / f'{name}.so', cache_folder() / f'{name}.so') if path.is_file()), None)


def flags() -> list[str]:
    """Return the compiler's flags; those in ``MMVIM_NATIVE_FLAGS`` come last, so they override the others.

    Examples:
        >>> flags()[:2]
        ['-O3', '-march=native']
    """
    return [*FLAGS, *os.environ.get(FLAGS_ENV, '').split()]


@functools.cache
def library_name() -> str:
    """Return the library's name, a digest of all that the build depends on: sources, PyTorch, flags and processor.

    Examples:
        >>> library_name().startswith('mmvim_native_')
        True
    """
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
    """Compile one source file to ``folder/name.so``, unless another process has just done so, and load it.

    Args:
        name: The library's name.
        source: The C++ file.
        folder: Where the library is put; made if it does not exist.

    Returns:
        The library's path.

    Raises:
        OSError: If the folder cannot be written.
        RuntimeError: If the compiler fails; its message is in the text.

    Examples:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source = Path(folder, 'answer.cpp')
        ...     _ = source.write_text('extern "C" int answer() { return 42; }')
        ...     bool(obstacle()) or build('answer', source, Path(folder)).name == 'answer.so'
        True
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
def load_library() -> str | None:
    """Load ``torch.ops.mmvim_native``, compiling it first if necessary. Later calls return the first one's answer.

    Returns:
        What went wrong, with the remedy, or None.

    Examples:
        >>> bool(load_library()) or hasattr(torch.ops.mmvim_native, 'scan_forward')
        True
    """
    name = library_name()
    found = find(name)
    if found is not None:
        try:
            torch.ops.load_library(str(found))
            return None
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
    except Exception as error:  # of the compiler, the linker, the folder or PyTorch's own look at them
        return f'it cannot be compiled: {str(error) or type(error).__name__}'
    return None


def _say(text: str) -> None:
    print(f'mmvim: {text}', file=sys.stderr, flush=True)


def _ninja_folder() -> str | None:
    """Return ninja's folder: on the path, or beside the interpreter of an environment that is not activated."""
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
    """Hold a lock that the operating system releases with the process, however it ends.

    Without locks, two processes may build at once, and the last one's result stays.
    """
    try:
        import fcntl
    except ImportError:  # Windows has none
        yield
        return
    with path.open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(notice)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # nor have some file systems
            pass
        yield
