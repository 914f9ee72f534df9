"""Build and install mmvim.

Besides the package this ships ``mmvim/.mim`` with ``configs/``, ``tools/`` and ``model-index.yml``: MMEngine looks
there for ``mmvim::vim/...`` in ``_base_``, and MIM for ``mim train mmvim``. A wheel and an sdist hold a copy; an
editable install gets links into the checkout, so that an edited config takes effect at once. Building a wheel never
touches the checkout, so an editable install survives it.

Both archives are the same to the byte wherever and whenever they are built from the same files, with the same
setuptools and zlib: members in the order of their names, of one time (``SOURCE_DATE_EPOCH``, or the first that a zip
file can state), of no owner, readable by all. ``tools/build_dist.py`` builds them of a commit.

What does not depend on the machine is in ``pyproject.toml``: metadata, requirements, settings of the tools.
"""

import gzip
import importlib.util
import io
import os
import shutil
import stat
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
MIM = Path('mmvim', '.mim')
IGNORED = shutil.ignore_patterns('__pycache__', '*.pyc', '.*')


def mim_sources() -> dict[str, Path]:
    """Return what ``.mim`` holds, by name: from the checkout, or from the ``.mim`` that an unpacked sdist carries."""
    checkout = {name: ROOT / name for name in ('configs', 'tools', 'model-index.yml')}
    shipped = {name: ROOT / MIM / name for name in checkout}
    sources = checkout if (ROOT / 'configs').exists() else shipped
    missing = [str(path.relative_to(ROOT)) for path in sources.values() if not path.exists()]
    if missing:
        raise SystemExit(
            f'mmvim cannot be built: {", ".join(missing)} is missing from {ROOT}. '
            'This tree is incomplete: clone the repository again, or unpack the sdist again.'
        )
    return sources


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def copy_mim(target: Path) -> None:
    """Make a fresh copy at ``target``, replacing whatever an earlier build left there."""
    sources = mim_sources()
    remove(target)
    target.mkdir(parents=True)
    for name, source in sources.items():
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=IGNORED)
        else:
            shutil.copyfile(source, target / name)


def link_mim() -> None:
    """Link ``mmvim/.mim`` of this checkout to its ``configs/`` and ``tools/``; copy where links are not allowed."""
    target = ROOT / MIM
    sources = mim_sources()
    if any(target in source.parents for source in sources.values()):
        return  # an unpacked sdist: it has nothing but this copy
    try:
        remove(target)
        target.mkdir(parents=True)
    except OSError as error:
        raise SystemExit(
            f'mmvim cannot be installed in editable mode: {target} cannot be replaced ({error.strerror}). '
            'Make the checkout writable, or install without -e.'
        ) from error
    try:
        for name, source in sources.items():
            (target / name).symlink_to(os.path.relpath(source, target), target_is_directory=source.is_dir())
    except OSError as error:
        copy_mim(target)
        print(
            f'mmvim: {target} is a copy because links are not possible here ({error.strerror}): '
            'repeat the installation after changing configs/ or tools/.'
        )


def archive_time() -> int:
    """Return the time that members of an archive get, in seconds since 1970; before 1980 zip files have none."""
    return max(int(os.environ.get('SOURCE_DATE_EPOCH', '0')), 315532800)


def plain_mode(mode: int) -> int:
    """Return the permissions of a file that may be executed, or of one that may not, whatever the umask was."""
    return stat.S_IFREG | (0o755 if mode & stat.S_IXUSR else 0o644)


def rewrite_wheel(path: Path) -> None:
    """Write a wheel anew with nothing in it that depends on when and where it was built."""
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        # the metadata at the end, as the format recommends
        for member in sorted(old.infolist(), key=lambda member: ('.dist-info/' in member.filename, member.filename)):
            if member.is_dir():
                continue
            fresh = zipfile.ZipInfo(member.filename, time.gmtime(archive_time())[:6])
            fresh.external_attr, fresh.create_system = plain_mode(member.external_attr >> 16) << 16, 3
            fresh.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(fresh, old.read(member))
    path.write_bytes(stream.getvalue())


def rewrite_sdist(path: Path) -> None:
    """Write a ``.tar.gz`` anew in the same way; folders have no members of their own."""
    stream = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=stream, mode='w', format=tarfile.PAX_FORMAT) as new:
        for member in sorted((m for m in old.getmembers() if m.isfile()), key=lambda member: member.name):
            fresh = tarfile.TarInfo(member.name)
            fresh.size, fresh.mtime, fresh.mode = member.size, archive_time(), plain_mode(member.mode) & 0o777
            new.addfile(fresh, old.extractfile(member))
    with path.open('wb') as file, gzip.GzipFile('', 'wb', 9, file, archive_time()) as packed:
        packed.write(stream.getvalue())


class BdistWheel(bdist_wheel):
    """The wheel command, whose result depends on the files alone."""

    def run(self) -> None:
        """Build the wheel, then write it anew."""
        super().run()
        rewrite_wheel(Path(self.distribution.dist_files[-1][2]))


class BuildPy(build_py):
    """The build command, which adds ``.mim`` to what is built, or to the checkout of an editable install."""

    def run(self) -> None:
        """Build, then copy or link ``.mim``."""
        super().run()
        if self.editable_mode:
            link_mim()
        else:
            copy_mim(Path(self.build_lib) / MIM)

    def _mim_files(self) -> Iterator[tuple[str, str]]:
        for name, source in mim_sources().items():
            for file in source.rglob('*') if source.is_dir() else (source,):
                inside = file.relative_to(source)
                if file.is_file() and not any(p.startswith('.') or p == '__pycache__' for p in inside.parts):
                    yield str(Path(self.build_lib) / MIM / name / inside), os.path.relpath(file)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return the files that are built, those of ``.mim`` included."""
        return super().get_outputs(include_bytecode) + [built for built, _ in self._mim_files()]

    def get_output_mapping(self) -> dict[str, str]:
        """Return the source of each built file, for editable installs in strict mode, which link file by file."""
        return {**super().get_output_mapping(), **dict(self._mim_files())}


class Develop(develop):
    """``setup.py develop``, which in older setuptools does not build, so that the links are made here."""

    def run(self) -> None:
        """Link ``.mim``, then install."""
        link_mim()
        super().run()


class Sdist(sdist):
    """The sdist command, which ships ``.mim`` as a copy and whose result depends on the files alone."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Make the release tree, then copy ``.mim`` into it."""
        super().make_release_tree(base_dir, files)
        copy_mim(Path(base_dir) / MIM)

    def make_archive(self, *args: Any, **kwargs: Any) -> str:
        """Make the archive, then write it anew."""
        path = super().make_archive(*args, **kwargs)
        if path.endswith('.tar.gz'):
            rewrite_sdist(Path(path))
        return path


def native_scan() -> dict[str, Any]:
    """Return what builds the C++ scan into the package if PyTorch is importable (``pip install --no-build-isolation``).

    The library's name states PyTorch's version and the processor. If it does not fit, or there is none, mmvim compiles
    one on first use, so a failing compiler does not stop the installation. ``MMVIM_BUILD_NATIVE=0`` switches it off.
    """
    if os.environ.get('MMVIM_BUILD_NATIVE') == '0' or not importlib.util.find_spec('torch'):
        return {}
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    folder = Path('mmvim/ops/native')
    spec = importlib.util.spec_from_file_location('mmvim_native_build', ROOT / folder / 'build.py')
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    if build.compiler() is None:
        return {}
    extension = CppExtension(
        f'{".".join(folder.parts)}.{build.library_name()}',
        [str(folder / 'library.cpp')],
        extra_compile_args=build.flags(),
        extra_link_args=build.flags(),
        optional=True,
        depends=[str(folder / name) for name in build.SOURCES],
    )
    return {
        'ext_modules': [extension],
        'cmdclass': {'build_ext': BuildExtension.with_options(use_ninja=False, no_python_abi_suffix=True)},
    }


native = native_scan()

setup(
    ext_modules=native.get('ext_modules', []),
    cmdclass={
        'bdist_wheel': BdistWheel,
        'build_py': BuildPy,
        'develop': Develop,
        'sdist': Sdist,
        **native.get('cmdclass', {}),
    },
)
