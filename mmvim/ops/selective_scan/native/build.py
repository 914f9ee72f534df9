"""Compile and load the C++ scan, once for each version of its source, of PyTorch and of the processor."""

import functools
import hashlib
import os
import platform
import shutil
import sys
from pathlib import Path
from types import ModuleType

import torch

SOURCES = ('scan.cpp', 'vec.h')
FLAGS = ('-O3', '-march=native', '-std=c++20', '-ffp-contract=fast', '-fno-math-errno', '-fno-trapping-math')


def compiler() -> str | None:
    """The C++ compiler: ``$CXX``, or g++ or clang++ on the path; None if there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get('CXX', ''), 'g++', 'clang++'))), None)


def available() -> tuple[bool, str]:
    """Whether the backend can run here, and why (not); compiles nothing."""
    if compiler() is None:
        return False, 'no C++ compiler: install g++, or set CXX'
    if _ninja_folder() is None:
        return False, 'no ninja: pip install ninja'
    return True, 'C++ on CPUs, compiled on first use (about half a minute); on request only'


def _ninja_folder() -> str | None:
    """Where ninja is: on the path, or beside the interpreter of an environment that is not activated."""
    beside = os.path.dirname(sys.executable)
    found = shutil.which('ninja') or shutil.which('ninja', path=beside)
    return os.path.dirname(found) if found else None


def _key() -> str:
    """A name for what the result depends on."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    cpu = Path('/proc/cpuinfo')
    features = next((line for line in cpu.read_text().splitlines() if line.startswith(('flags', 'Features'))), '') \
        if cpu.exists() else platform.processor()
    digest.update(repr((torch.__version__, FLAGS, compiler(), platform.machine(), features)).encode())
    return f'mmvim_native_{digest.hexdigest()[:12]}'


@functools.cache
def library() -> ModuleType:
    """``torch.ops.mmvim_native``, built in PyTorch's extension cache (``TORCH_EXTENSIONS_DIR``) if it is not there yet.

    PyTorch's loader locks the folder, so that processes which start together build once.

    Raises:
        RuntimeError: If the compiler fails; its message is in the text.
    """
    from torch.utils.cpp_extension import load
    folder, path = _ninja_folder(), os.environ.get('PATH', '')
    if folder is not None and folder not in path.split(os.pathsep):
        os.environ['PATH'] = os.pathsep.join([path, folder])
    load(name=_key(), sources=[str(Path(__file__).parent / 'scan.cpp')], extra_cflags=list(FLAGS),
         is_python_module=False, verbose=False)
    return torch.ops.mmvim_native
