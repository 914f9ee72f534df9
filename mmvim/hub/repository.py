"""Repositories of the hub: a model out of one, and a model into one."""

import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmvim.checkpoints.errors import CheckpointError, some
from mmvim.checkpoints.files.hub_files import NotAHubError, call_hub, endpoint, has_hub, hub_file
from mmvim.hub.card import Measurement, model_card
from mmvim.hub.description import describe, model_config
from mmvim.hub.trusted import check_config

CONFIG, WEIGHTS, CARD = 'config.json', 'model.safetensors', 'README.md'
_NEEDED = 'pip install "mmvim[hub]"'
_VERSIONS = 'module_versions'


def from_pretrained(
    repo: str | os.PathLike,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    offline: bool | None = None,
    cache: str | os.PathLike | None = None,
    device: str | torch.device = 'cpu',
) -> nn.Module:
    """Build a model that :func:`push` has pushed, with its weights, in eval mode.

    Files are kept in the hub's cache, and fetched again if the repository has changed. Nothing of the repository is
    run: the config is JSON, which may name registered modules and no files, and the weights are safetensors. Both must
    fit each other to the last tensor.

    Args:
        repo: ``owner/name`` on the hub (or behind ``HF_ENDPOINT``), or a folder laid out like a repository.
        revision: Branch, tag or commit. Defaults to None, the main branch.
        token: Of the user, for private repositories. Defaults to None, that of ``hf auth login`` or ``HF_TOKEN``.
        offline: Take what the cache has, and ask nobody. Defaults to None, as ``HF_HUB_OFFLINE`` says.
        cache: Folder of the cache. Defaults to None, the hub's own.
        device: Where the model goes. Defaults to 'cpu'.

    Returns:
        The model: a backbone, segmentor or detector, whatever was pushed. Its attribute ``dataset_meta`` has
        ``classes`` and ``palette``, if they are known.

    Raises:
        CheckpointError: If huggingface_hub or safetensors is not installed, a file cannot be fetched or read, the
            config names what is not registered, or config and weights do not fit.

    Examples:
        >>> import tempfile
        >>> from mmvim import hub
        >>> from mmvim.models import Vim
        >>> config = dict(type='mmvim.Vim', arch=dict(embed_dims=16, depth=1), img_size=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = hub.push(Vim(config['arch'], img_size=32), folder, config=config, license='mit', upload=False)
        ...     type(hub.from_pretrained(folder)).__name__
        'Vim'
    """
    _check_safetensors()
    folder = Path(repo).expanduser()
    source = str(repo)

    def find(name: str) -> str:
        if folder.is_dir():
            if not (folder / name).is_file():
                raise CheckpointError(f'{folder} has no {name}', 'give a folder that mmvim.hub.push has written')
            return str(folder / name)
        _check_name(source)
        try:
            return hub_file(source, name, revision, token, offline, cache)
        except NotAHubError as error:
            raise CheckpointError(f'{endpoint()} is no hub ({error})', 'correct HF_ENDPOINT') from error

    path = find(CONFIG)
    try:
        description = json.loads(Path(path).read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f'{CONFIG} of {source} is not JSON ({error})', 'load it again') from error
    model = _build(model_config(description, f'{CONFIG} of {source}'), description.get('default_scope'), source)
    weights = _read(find(WEIGHTS), f'{WEIGHTS} of {source}')
    _load(model, weights, source)
    if description.get('classes'):
        model.dataset_meta = {'classes': description['classes'], 'palette': description.get('palette')}
    return model.to(device).eval()


def push(
    model: nn.Module,
    repo: str | os.PathLike,
    *,
    config: Config | dict,
    license: str,
    measured: Sequence[Measurement] = (),
    text: str = '',
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    message: str = 'Push a model of mmvim',
    upload: bool = True,
) -> str:
    """Put a model into a repository of the hub: its config, its weights and a card.

    The repository is made if it is not there. The model is built again from ``config`` and must take the weights, so
    that what is pushed can be loaded. Paths of this machine (``init_cfg``, data) are left out.

    Args:
        model: The model. Its ``dataset_meta``, if it has one, tells the classes.
        repo: ``owner/name``; a folder if ``upload`` is False.
        config: Its whole config, or the config of the module alone, such as ``dict(type='mmvim.Vim', arch='tiny')``.
        license: Of the weights, as the hub calls it, such as 'apache-2.0' or 'cc-by-nc-4.0'.
        measured: What was measured, and how. Defaults to (), and the card says that nothing was.
        text: Paragraphs of your own for the card. Defaults to ''.
        private: Whether a new repository is private. Defaults to None, as the owner's settings say.
        revision: Branch that is pushed to. Defaults to None, the main branch.
        token: Of the user, with the right to write. Defaults to None, that of ``hf auth login`` or ``HF_TOKEN``.
        message: Of the commit. Defaults to 'Push a model of mmvim'.
        upload: Whether to push; otherwise the files are written to the folder ``repo``. Defaults to True.

    Returns:
        The address of the commit, or the folder.

    Raises:
        ValueError: If the config does not describe a model, ``license`` is empty, or a measurement lacks a part.
        CheckpointError: If a package is missing, the weights do not fit the config, or the hub refuses.

    Examples:
        >>> import os, tempfile
        >>> from mmvim import hub
        >>> from mmvim.models import Vim
        >>> config = dict(type='mmvim.Vim', arch=dict(embed_dims=16, depth=1), img_size=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = hub.push(Vim(config['arch'], img_size=32), folder, config=config, license='mit', upload=False)
        ...     sorted(os.listdir(folder))
        ['README.md', 'config.json', 'model.safetensors']
    """
    _check_safetensors()
    source = str(repo)
    if upload:
        _check_name(source)
    description = describe(config, getattr(model, 'dataset_meta', None))
    weights = model.state_dict()
    _load(_build(model_config(description, 'config'), description['default_scope'], source), weights, source)
    count = sum(parameter.numel() for parameter in model.parameters())
    card = model_card(source, description, license=license, measured=measured, parameters=count, text=text)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary if upload else source)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(description, indent=2) + '\n', encoding='utf-8')
        (folder / CARD).write_text(card, encoding='utf-8')
        _write(weights, folder / WEIGHTS)
        return _upload(folder, source, revision, token, private, message) if upload else source


def _upload(
    folder: Path, repo: str, revision: str | None, token: str | bool | None, private: bool | None, message: str
) -> str:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint(), token=token)
    call_hub(lambda: api.create_repo(repo, private=private, exist_ok=True), f'making {repo}')
    if revision is not None:
        call_hub(lambda: api.create_branch(repo, branch=revision, exist_ok=True), f'making the branch {revision}')
    commit = call_hub(
        lambda: api.upload_folder(repo_id=repo, folder_path=folder, revision=revision, commit_message=message),
        f'pushing to {repo}',
    )
    return str(getattr(commit, 'commit_url', commit))


def _check_name(repo: str) -> None:
    if not has_hub():
        raise CheckpointError(f'{repo}: huggingface_hub is not installed', _NEEDED)
    owner, slash, name = repo.partition('/')
    if not (owner and slash and name) or '/' in name or repo.startswith(('.', '~', '/')):
        raise CheckpointError(f'{repo!r} is neither OWNER/NAME nor a folder', 'correct it')


def _check_safetensors() -> None:
    if find_spec('safetensors') is None:
        raise CheckpointError('safetensors is not installed', _NEEDED)


def _write(weights: dict[str, Tensor], path: Path) -> None:
    """Write weights, and the versions of the modules that they are of, by which their modules read old ones."""
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    versions = json.dumps(getattr(weights, '_metadata', {}))
    save_file(plain, str(path), metadata={'format': 'pt', _VERSIONS: versions})


def _read(path: str, source: str) -> dict[str, Tensor]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework='pt') as file:
            weights = OrderedDict((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 not a dict
            versions = dict(json.loads((file.metadata() or {}).get(_VERSIONS, '{}')))
    except Exception as error:  # of the Rust library: of its own classes
        raise CheckpointError(f'{source} cannot be read ({error})', 'load it again') from error
    known = ((name, version) for name, version in versions.items() if isinstance(version, dict))
    weights._metadata = OrderedDict(known)  # type: ignore[attr-defined]
    return weights


def _build(config: dict, scope: str | None, source: str) -> nn.Module:
    """Build a model as the runner does, on the CPU; SyncBN becomes BatchNorm."""
    check_config(config, f'the config of {source}', scope)
    if scope in ('mmseg', 'mmdet'):
        try:
            import_module(f'{scope}.models')
        except ImportError as error:
            remedy = f'pip install "mmvim[{scope[2:]}]"'
            raise CheckpointError(
                f'{source} is a model of {scope}, which cannot be imported ({error})', remedy
            ) from error
    try:
        with MODELS.switch_scope_and_registry(scope or 'mmvim') as registry:
            return revert_sync_batchnorm(registry.build(config))
    except Exception as error:  # of any kind, as its values may be
        problem = ' '.join(str(error).split())[:300]
        raise CheckpointError(f'the model of {source} cannot be built: {problem}', 'correct its config') from error


def _load(model: nn.Module, weights: dict, source: str) -> None:
    # Before anything is loaded: some models resize what has another shape, such as position embeddings.
    for name, own in model.state_dict().items():
        if name in weights and weights[name].shape != own.shape:
            shapes = f'{name} is {tuple(weights[name].shape)}, and its config makes {tuple(own.shape)}'
            raise CheckpointError(f'the weights of {source} do not fit its config: {shapes}', 'give the right one')
    try:
        result = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        problem = ' '.join(str(error).split())[:300]
        raise CheckpointError(
            f'the weights of {source} do not fit its config: {problem}', 'give the right one'
        ) from error
    wrong = [*(f'no {name}' for name in result.missing_keys), *(f'{name} too many' for name in result.unexpected_keys)]
    if wrong:
        raise CheckpointError(f'the weights of {source} do not fit its config: {some(wrong, 3)}', 'give the right one')
