"""Locations that a user may name (a path, a folder, a URL, ``hf://``), and the files on disk behind them."""

import hashlib
import os
import re
import socket
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

import torch
from filelock import FileLock

from mmvim.checkpoints.errors import CheckpointError, some
from mmvim.checkpoints.files.header import check_header, is_plain_name, read_index
from mmvim.checkpoints.files.hub_files import NotAHubError, cache_folder, endpoint, has_hub, hub_file

# The prefix by which MMEngine's own loaders are sent to a publisher's file; see :mod:`mmvim.checkpoints.mmengine`.
PUBLISHED = 'published://'
_HUB = re.compile(r'hf://(?P<owner>[^/@]+)/(?P<repo>[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)')
_SUFFIXES = ('.safetensors', '.pth', '.pth.tar', '.pt', '.ckpt', '.bin')
_INDEX = '.index.json'
_WAIT = 60.0  # seconds for a server to answer, and between two parts of a file
_FETCHED = ('http://', 'https://', 'hf://', 'file://', PUBLISHED)


def can_fetch(location: str) -> bool:
    """Check whether :func:`fetch` knows a kind of location; others (``open-mmlab://``, ``s3://``) are left to MMEngine.

    Args:
        location: What the user names.

    Examples:
        >>> from mmvim import checkpoints
        >>> [checkpoints.can_fetch(location) for location in ('vim.pth', 'hf://owner/repo/vim.pth', 's3://bucket/vim.pth')]
        [True, True, False]
    """
    return '://' not in location or location.startswith(_FETCHED)


def fetch(location: str) -> str:
    """Return the path of the file that a location names, downloading it if need be.

    A file of the Hugging Face hub, ``hf://owner/repo/path`` or ``hf://owner/repo@revision/path``, is taken from the
    hub's own cache on this machine (``HF_HUB_CACHE``, ``HF_HOME``) if it is there, else from the hub (``HF_ENDPOINT``):
    by the package huggingface_hub, if it is installed, into that cache, with its token (``HF_TOKEN``) and its offline
    mode (``HF_HUB_OFFLINE``). Other downloads are kept in PyTorch's folder for them (``TORCH_HOME``), shards beside
    their index (``*.index.json``). Of the processes that share a folder, as those of a machine do, one downloads, and
    the others wait for it.

    Args:
        location: A path, a folder that holds one checkpoint (or shards and their index), ``file://``, ``http(s)://`` or
            ``hf://``.

    Returns:
        The file. A plain path is returned unchanged, whether it exists or not.

    Raises:
        CheckpointError: If the location is of another kind, or cannot be reached.

    Examples:
        >>> from mmvim import checkpoints
        >>> checkpoints.fetch('vim.pth'), checkpoints.fetch('file:///data/vim.pth')
        ('vim.pth', '/data/vim.pth')
    """
    location = str(location).removeprefix(PUBLISHED)
    if '://' not in location:
        return _in_folder(os.path.expanduser(location))
    if location.startswith('file://'):
        path = location.removeprefix('file://').removeprefix('localhost')
        return _in_folder(path if os.path.exists(path) else unquote(path))
    if location.startswith(('http://', 'https://')):
        return _download_all(location, Path(hashlib.sha256(location.encode()).hexdigest()[:10], _file_name(location)))
    if not location.startswith('hf://'):
        raise CheckpointError(f'{location} is of no known kind', f'give a path or one of {", ".join(_FETCHED[:-1])}')
    match = _HUB.fullmatch(location)
    if match is None:
        raise CheckpointError(f'{location} is not hf://OWNER/REPO/FILE', 'name the file in the repository')
    owner, repo, revision, file = match['owner'], match['repo'], match['revision'] or 'main', match['file']
    if '..' in (owner, repo, revision, *file.split('/')):
        raise CheckpointError(f'{location} leaves its repository', 'name the file in the repository')
    inside = Path('hf', owner, repo, revision, file)
    cached = _hub_cache(owner, repo, revision, file)
    if cached is not None:
        return str(cached)
    if has_hub() and not _kept(inside).is_file():
        try:
            return _of_hub(f'{owner}/{repo}', file, revision)
        except NotAHubError:
            pass  # a plain mirror: as from any server
    url = f'{endpoint()}/{owner}/{repo}/resolve/{quote(revision, safe="")}/{quote(file)}'
    return _download_all(url, inside)


def _file_name(url: str) -> str:
    return url.split('?')[0].rstrip('/').rsplit('/', 1)[-1] or 'checkpoint'


def _in_folder(path: str) -> str:
    """Return the checkpoint in a folder, laid out like a repository of the hub; any other path unchanged."""
    if not os.path.isdir(path):
        return path
    try:
        inside = sorted(Path(path).iterdir())
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read ({error.strerror})', 'check its permissions') from error
    files = [f for f in inside if f.name.endswith(_SUFFIXES)]
    indices = [f for f in inside if f.name.endswith(_INDEX)]
    if len(indices) == 1 and {f.name for f in files} <= set((read_index(str(indices[0])) or {}).values()):
        return str(indices[0])
    if len(files) != 1:
        found = some((f.name for f in files), 5) or 'no checkpoint'
        raise CheckpointError(f'{path} is a folder with {found}', 'name the file')
    return str(files[0])


def _hub_cache(owner: str, repo: str, revision: str, file: str) -> Path | None:
    root = cache_folder() / f'models--{owner}--{repo}'
    note = root / 'refs' / revision
    commit = note.read_text(errors='replace').strip() if note.is_file() else revision
    path = root / 'snapshots' / commit / file
    return path if path.is_file() else None


def _of_hub(repo_id: str, file: str, revision: str) -> str:
    """Fetch a file by the hub's package, and the shards of an index, which it puts beside it."""
    path = hub_file(repo_id, file, revision)
    check_header(path, f'hf://{repo_id}/{file}')
    if path.endswith(_INDEX):
        folder = file.rpartition('/')[0]
        for shard in dict.fromkeys((read_index(path) or {}).values()):
            if is_plain_name(shard):  # any other is refused when the index is read
                hub_file(repo_id, f'{folder}/{shard}' if folder else shard, revision)
    return path


def _download_all(url: str, inside: Path) -> str:
    """Download a file and, if it is an index, the shards that it names, which are put beside it."""
    path = _download(url, inside)
    if path.endswith(_INDEX):
        base = url.split('?')[0].rsplit('/', 1)[0]
        for shard in dict.fromkeys((read_index(path) or {}).values()):
            if is_plain_name(shard):  # any other is refused when the index is read
                _download(f'{base}/{quote(shard)}', inside.with_name(shard))
    return path


def _kept(inside: Path) -> Path:
    return Path(torch.hub.get_dir(), 'checkpoints', 'mmvim', inside)


def _download(url: str, inside: Path) -> str:
    """Download a file once for all processes that share a disk: the others wait for the one that holds the lock."""
    target = _kept(inside)
    if target.is_file():
        return str(target)
    part = target.with_name(f'{target.name}.{os.getpid()}.part')
    lock = target.with_name(f'{target.name}.lock')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(lock):
            if not target.is_file():
                with _limited():
                    torch.hub.download_url_to_file(url, str(part), progress=os.isatty(2))
                check_header(str(part), url)  # keep a checkpoint, not a page that says why there is none
                part.replace(target)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, 'reason', None) or error
        if isinstance(reason, TimeoutError):
            reason = f'nothing came for {socket.getdefaulttimeout() or _WAIT:.0f} s'
        raise CheckpointError(f'{url} cannot be fetched ({reason})', 'download it by hand and give its path') from error
    finally:
        part.unlink(missing_ok=True)
    return str(target)


@contextmanager
def _limited() -> Iterator[None]:
    """Let no connection that is opened inside the block wait for ever, as PyTorch's downloads do by themselves."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before or _WAIT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock, which the system releases if the process dies; go on without one where there are none."""
    lock = FileLock(path)
    try:
        lock.acquire()
    except NotImplementedError:  # some network disks; a file is put in its place as a whole in any case
        yield
        return
    try:
        yield
    finally:
        lock.release()
        path.unlink(missing_ok=True)
