"""Files of the Hugging Face hub, by the hub's own package: its cache, token, offline mode and resumed downloads."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmvim.checkpoints.errors import CheckpointError


class NotAHubError(Exception):
    """Error for a server behind ``HF_ENDPOINT`` that serves files, but does not say of which commit they are."""


def has_hub() -> bool:
    """Check whether the package huggingface_hub is installed; without it files are fetched as from any server."""
    return find_spec('huggingface_hub') is not None


def cache_folder() -> Path:
    """Return where the hub's package keeps files, as the environment says now (``HF_HUB_CACHE``, ``HF_HOME``)."""
    home = os.environ.get('HF_HOME') or Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'huggingface')
    return Path(os.environ.get('HF_HUB_CACHE') or Path(home, 'hub')).expanduser()


def endpoint() -> str:
    """Return the address of the hub, as the environment says now (``HF_ENDPOINT``)."""
    return os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')


def is_offline() -> bool:
    """Return whether the environment forbids to ask the hub (``HF_HUB_OFFLINE``)."""
    return os.environ.get('HF_HUB_OFFLINE', '').upper() in ('1', 'ON', 'YES', 'TRUE')


def hub_file(
    repo_id: str,
    file: str,
    revision: str | None = None,
    token: str | bool | None = None,
    offline: bool | None = None,
    cache: str | os.PathLike | None = None,
) -> str:
    """Return a file of the hub, fetched if the cache does not have it as it is there now.

    A download that the network interrupts goes on where it stopped; one of several processes downloads.

    Args:
        repo_id: ``owner/name``.
        file: Path in the repository.
        revision: Branch, tag or commit. Defaults to None, the main branch.
        token: Of the user, for private repositories. Defaults to None, that of ``hf auth login`` or ``HF_TOKEN``.
        offline: Take what the cache has, and ask nobody. Defaults to None, as ``HF_HUB_OFFLINE`` says.
        cache: Folder of the cache. Defaults to None, the hub's own.

    Returns:
        The file, in the cache.

    Raises:
        CheckpointError: If it cannot be fetched.
        NotAHubError: If the server lacks what the hub's package asks for.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import FileMetadataError

    offline = is_offline() if offline is None else offline
    try:
        return hf_hub_download(
            repo_id,
            file,
            revision=revision,
            token=token,
            local_files_only=offline,
            cache_dir=Path(cache) if cache else cache_folder(),
            endpoint=endpoint(),
        )
    except Exception as error:  # of the network, the server, the disk or the name: of many classes
        if isinstance(error, FileMetadataError) or isinstance(error.__cause__, FileMetadataError):
            raise NotAHubError(str(error)) from error
        where = f'hf://{repo_id}{f"@{revision}" if revision else ""}/{file}'
        if offline:
            remedy = 'load it once with a network, or unset HF_HUB_OFFLINE'
            raise CheckpointError(
                f'{where} is not in {cache or cache_folder()}, and nothing is fetched', remedy
            ) from error
        raise CheckpointError(f'{where} cannot be fetched ({_first_line(error)})', _remedy(error)) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:160]


def _remedy(error: Exception) -> str:
    status = getattr(getattr(error, 'response', None), 'status_code', None)
    if status in (401, 403):
        return 'log in with `hf auth login`, set HF_TOKEN, or correct the name'
    if status == 404:
        return 'correct the name of the repository, the file or the revision'
    return 'download it by hand and give its path'


def call_hub(action: Callable[[], Any], what: str) -> Any:
    """Run a request to the hub, and report what goes wrong as one error.

    Args:
        action: The request.
        what: What it does, for the message.

    Raises:
        CheckpointError: If it fails.
    """
    try:
        return action()
    except Exception as error:
        raise CheckpointError(f'{what} failed ({_first_line(error)})', _remedy(error)) from error
