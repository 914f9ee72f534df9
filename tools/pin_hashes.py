#!/usr/bin/env python
"""Write into requirements/*.txt what each pinned file must be: the SHA-256 sums that pip then insists on.

    pip install uv && python tools/pin_hashes.py          # after a pin has changed: all sums anew
    python tools/pin_hashes.py --check                    # only tell which pins have none; no network

uv (https://docs.astral.sh/uv) asks the package index for the files of each pin. Kept are the sums of the source archive
and of the wheels for CPython 3.11 to 3.13 on Linux (x86_64, aarch64) and macOS; tools/setup_env.sh runs nowhere else.
torch.txt has none: which build of PyTorch is right (CPU, CUDA, ROCm; an index of PyTorch's own, a file, one that is
there already) is the user's choice, and each build has another sum under the same version. Its dependencies come with
it.

It is for maintainers of mmvim, from a checkout.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'requirements'
WITHOUT = ('torch.txt',)
PIN = re.compile(r'([\w.-]+)==([\w.!+-]+)')
# The tags of a wheel's name: Python, ABI, platforms.
PYTHONS = re.compile(r'(py3|cp3\d*|py2\.py3|cp311|cp312|cp313)$')
ABIS = re.compile(r'none|abi3|cp311|cp312|cp313')
PLATFORMS = re.compile(r'any|manylinux.*(x86_64|aarch64)|linux_(x86_64|aarch64)|macosx_.*')
LIMIT = 600.0  # seconds that uv may ask the index for the pins of a file


def normal(name: str) -> str:
    """Return a distribution's name as indices compare it.

    Args:
        name: As a requirement has it.
    """
    return re.sub(r'[-_.]+', '-', name).lower()


def is_kept(file: str) -> bool:
    """Check whether the sum of a file is kept, by its name: a source archive, or a wheel for one of our machines."""
    if not file.endswith('.whl'):
        return True
    python, abi, platforms = file.removesuffix('.whl').split('-')[-3:]
    newest = re.fullmatch(r'cp3(\d+)', python)
    if newest and abi == 'abi3' and int(newest[1]) > 13:
        return False
    return bool(PYTHONS.match(python) and ABIS.fullmatch(abi) and any(map(PLATFORMS.fullmatch, platforms.split('.'))))


def sums_of(lock: dict) -> dict[str, list[str]]:
    """Return the sums of a lock file (PEP 751) by name of the distribution, sorted."""
    found = {}
    for package in lock['packages']:
        files = [*package.get('wheels', ()), *([package['sdist']] if 'sdist' in package else ())]
        kept = {file['hashes']['sha256'] for file in files if is_kept(file['url'].rsplit('/', 1)[-1])}
        found[normal(package['name'])] = sorted(kept)
    return found


def pins_of(text: str) -> list[str]:
    """Return the names of a requirement file that are pinned."""
    return [found[1] for line in text.splitlines() if (found := PIN.match(line))]


def without_sums(text: str) -> list[str]:
    """Return the pins of a requirement file that state no sum."""
    return [
        found[1]
        for line, after in zip(text.splitlines(), [*text.splitlines()[1:], ''], strict=True)
        if (found := PIN.match(line)) and not (line.endswith('\\') and after.startswith('    --hash=sha256:'))
    ]


def write_sums(text: str, sums: dict[str, list[str]]) -> str:
    """Return a requirement file whose pins state their sums; comments and order stay.

    Args:
        text: The file.
        sums: By normal name.
    """
    lines = []
    for line in text.splitlines():
        found = PIN.match(line)
        if line.startswith('    --hash='):
            continue
        line = line.removesuffix('\\').rstrip()
        if found:
            own = sums[normal(found[1])]
            line = ' \\\n'.join([line, *(f'    --hash=sha256:{one}' for one in own)])
        lines.append(line)
    return '\n'.join(lines) + '\n'


def resolve(text: str, name: str) -> dict:
    """Return the lock file that uv makes of pins.

    Args:
        text: The file that has them.
        name: What messages call it.
    """
    command = ('uv', 'pip', 'compile', '--no-deps', '--universal', '--python-version', '3.11.9', '--no-header', '-q')
    pins = '\n'.join(found[0] for line in text.splitlines() if (found := PIN.match(line)))
    try:
        done = subprocess.run(
            (*command, '--format', 'pylock.toml', '-'), input=pins, capture_output=True, text=True, timeout=LIMIT
        )
    except FileNotFoundError:
        raise SystemExit('error: there is no uv; pip install uv') from None
    except subprocess.TimeoutExpired:
        raise SystemExit(f'error: uv has no sums of {name} after {LIMIT} s; see whether the index answers') from None
    if done.returncode != 0:
        raise SystemExit(f'error: uv cannot resolve the pins of {name}: {done.stderr.strip()}; correct them')
    return tomllib.loads(done.stdout)


def main() -> int:
    """Write the sums, or tell which are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing, ask nobody')
    args = parser.parse_args()
    files = [path for path in sorted(FOLDER.glob('*.txt')) if path.name not in WITHOUT]
    if not args.check:
        for path in files:
            text = path.read_text('utf-8')
            partial = path.with_name(f'{path.name}.partial')  # a file without its end would pass for one of fewer pins
            partial.write_text(write_sums(text, sums_of(resolve(text, path.name))), 'utf-8')
            partial.replace(path)
    bare = [f'{path.name}: {name}' for path in files for name in without_sums(path.read_text('utf-8'))]
    print('\n'.join(bare) or f'every pin of {len(files)} files states its sums')
    return bool(bare)


if __name__ == '__main__':
    sys.exit(main())
