#!/usr/bin/env python
"""Build the wheel and the sdist of a commit: the same to the byte wherever and whenever.

    python tools/build_dist.py                       # of HEAD, into dist/, with SHA256SUMS
    python tools/build_dist.py --commit v0.2.0 --check       # and once more from another copy, to compare

What is built is what git has, not what lies in the checkout. The archives' time is the commit's (SOURCE_DATE_EPOCH);
setuptools must be the one that requirements/build.txt pins, because its version is written into the wheel. No C++ is
compiled: the wheel is one for every machine. --check builds from a second copy, elsewhere, with another umask, time
zone and language, other times and permissions of files, and fails if a byte differs.

It is for maintainers of mmvim, from a checkout.
"""

import argparse
import hashlib
import io
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1800.0  # seconds that git or a build may take
HOOKS = 'import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))'


def git(*words: str, stderr: int | None = None) -> bytes:
    """Return what git prints about this checkout; its errors go where ours do, or elsewhere."""
    command = ['git', '-C', ROOT, *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=stderr, timeout=LIMIT).stdout


def check_setuptools(pins: str) -> str | None:
    """Return what is wrong with the setuptools that is installed, if it is not the one of requirements/build.txt."""
    pinned, found = re.search(r'^setuptools==([\w.]+)', pins, re.MULTILINE)[1], version('setuptools')
    if found == pinned:
        return None
    return f'setuptools is {found}, and requirements/build.txt pins {pinned}; pip install -r requirements/build.txt'


def export(commit: str, folder: Path) -> Path:
    """Write the files of a commit into a new folder."""
    with tarfile.open(fileobj=io.BytesIO(git('archive', commit))) as archive:
        archive.extractall(folder, filter='data')
    return folder


def build(tree: Path, out: Path, epoch: int, **variables: str) -> list[Path]:
    """Build the sdist and the wheel of a tree.

    Args:
        tree: The files.
        out: Where the archives go; made if it is not there.
        epoch: Their time, in seconds since 1970.
        **variables: More environment variables.

    Returns:
        The archives.
    """
    out.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, 'SOURCE_DATE_EPOCH': str(epoch), 'MMVIM_BUILD_NATIVE': '0', **variables}
    made = []
    for hook in ('build_sdist', 'build_wheel'):
        command = [sys.executable, '-c', HOOKS, hook, str(out)]
        try:
            done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired as error:
            raise SystemExit(f'error: {hook} has not ended after {LIMIT} s; see what it waits for') from error
        if done.returncode != 0:
            raise SystemExit(f'{done.stdout}{done.stderr}\nerror: {hook} failed, see above')
        made.append(out / done.stdout.split()[-1])
    return made


def disturb(tree: Path, seed: int = 0) -> None:
    """Change what must not matter of a tree: times and permissions of its files."""
    rng = random.Random(seed)
    for path in sorted(tree.rglob('*')):
        if path.is_file():
            path.chmod(0o700 if path.stat().st_mode & 0o100 else 0o600)
            os.utime(path, (rng.randrange(2**30),) * 2)


def digests(archives: list[Path]) -> str:
    """Return a line for each archive, as ``sha256sum`` writes it."""
    return ''.join(f'{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n' for path in archives)


def publish(made: list[Path], out: Path) -> None:
    """Put archives and their sums into a folder, each as a whole."""
    out.mkdir(parents=True, exist_ok=True)
    for path in made:
        partial = out / f'{path.name}.partial'
        shutil.copyfile(path, partial)
        partial.replace(out / path.name)
    partial = out / 'SHA256SUMS.partial'
    partial.write_text(digests(made))
    partial.replace(out / 'SHA256SUMS')


def main() -> None:
    """Build, and compare if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--commit', default='HEAD', help='what to build. Defaults to HEAD')
    parser.add_argument('--out', type=Path, default=ROOT / 'dist', help='where the archives go. Defaults to dist')
    parser.add_argument('--check', action='store_true', help='build twice and compare')
    args = parser.parse_args()
    problem = check_setuptools((ROOT / 'requirements/build.txt').read_text('utf-8'))
    if problem:
        parser.error(problem)
    try:
        found = git('rev-parse', '--verify', '--quiet', f'{args.commit}^{{commit}}', stderr=subprocess.DEVNULL)
        commit = found.decode().strip()
    except subprocess.CalledProcessError:
        parser.error(f'--commit {args.commit} is no commit of {ROOT}; give a branch, a tag or the number of one')
    epoch = int(git('log', '-1', '--format=%ct', commit))
    if args.commit == 'HEAD' and git('status', '--porcelain'):
        print('warning: changes that are not committed are not in it', file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        made = build(export(commit, Path(folder, 'a')), Path(folder, 'made'), epoch)
        sums = digests(made)
        if args.check:
            tree = export(commit, Path(folder, 'another place') / 'b')
            disturb(tree)
            before = os.umask(0o077)
            again = digests(
                build(tree, Path(folder, 'again'), epoch, TZ='Asia/Kolkata', LC_ALL='C', PYTHONHASHSEED='7')
            )
            os.umask(before)
            if sums != again:
                raise SystemExit(f'error: two builds of {commit} differ:\n{sums}{again}')
        publish(made, args.out)
    print(f'{sums}{args.out}, of commit {commit}{", the same from two copies" if args.check else ""}')


if __name__ == '__main__':
    main()
