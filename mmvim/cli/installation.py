"""What is installed and what the machine has, as lines of text, and what is wrong with it."""

import os
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

import torch

import mmvim
from mmvim.cli.config import TESTED, missing_ops, untested
from mmvim.cli.errors import describe
from mmvim.cli.noise import quiet
from mmvim.cli.threads import USERS_OWN, core_count
from mmvim.ops.native.build import compiler
from mmvim.ops.triton_host.device import DEVICES

PACKAGES = ('torch', 'triton', 'numpy', 'einops', 'mmengine', 'mmcv', 'mmseg', 'mmdet')
_VARIABLES = (*USERS_OWN, 'CUDA_VISIBLE_DEVICES', 'TRITON_INTERPRET', 'CXX', 'CC')


def machine() -> list[str]:
    """Return lines about Python, processor, GPUs and the environment variables that matter.

    Examples:
        >>> from mmvim.cli.installation import machine
        >>> machine()[0].startswith('mmvim 0.')
        True
    """
    lines = [
        f'mmvim {mmvim.__version__}, Python {platform.python_version()}, {platform.platform()}',
        f'processor: {_processor()}; {core_count()} cores for this process, {torch.get_num_threads()} threads',
        f'C++ compiler: {compiler() or "none"}',
    ]
    for name in DEVICES:
        for index in range(getattr(torch, name).device_count()):
            properties = getattr(torch, name).get_device_properties(index)
            capability = '.'.join(str(getattr(properties, part, '')) for part in ('major', 'minor')).strip('.')
            about = f', capability {capability}' if capability else ''
            lines.append(f'{name}:{index}: {properties.name}{about}, {properties.total_memory / 2**30:.0f} GiB')
    return lines + [f'{name}={os.environ[name]}' for name in sorted(os.environ) if _matters(name)]


def _matters(name: str) -> bool:
    return name in _VARIABLES or name.startswith('MMVIM_')


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(':', 1) for line in lines if ':' in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = facts.get('flags', '').split()
    vectors = [name for flag, name in (('avx512f', 'AVX-512'), ('avx2', 'AVX2')) if flag in flags]
    return ', '.join([facts.get('model name', platform.machine()), *vectors[:1]])


def packages() -> list[tuple[str, str]]:
    """Return each package with its version, and whether mmvim's tests ran on it.

    Examples:
        >>> from mmvim.cli.installation import packages
        >>> dict(packages())['torch'].split('.')[0]
        '2'
    """
    return [(name, _version(name)) for name in PACKAGES]


def _version(name: str) -> str:
    if find_spec(name) is None:
        return 'not installed'
    # onedl-mmengine and mmengine both bring the module mmengine
    distributions = packages_distributions().get(name, [name])
    try:
        text = ', '.join(f'{found} {version(found)}' for found in dict.fromkeys(distributions))
    except PackageNotFoundError:
        text = 'of unknown version'
    text = text.removeprefix(f'{name} ')
    if name == 'torch':
        builds = {'CUDA': torch.version.cuda, 'ROCm': torch.version.hip}
        text = torch.__version__ + ''.join(f', {kind} {number}' for kind, number in builds.items() if number)
    if name == 'mmcv':
        text += ', with compiled operators' if find_spec('mmcv._ext') else ', without compiled operators'
    return text


def problems() -> list[str]:
    """Return what is wrong with the packages and the GPUs, each with its remedy.

    Examples:
        >>> from mmvim.cli.installation import problems
        >>> all(isinstance(problem, str) for problem in problems())
        True
    """
    found = []
    for name in TESTED:
        try:
            with quiet():
                import_module(name)
        except Exception as error:
            if find_spec(name) is None:
                if name in ('mmengine', 'mmcv'):
                    found.append(f'{name} is not installed; install what mmvim needs: pip install "mmvim[seg]"')
            elif '_ext' not in str(error):
                found.append(f'{name} cannot be imported: {describe(error)}')
    with quiet():
        names = untested()
    if names:
        tested = '; '.join(f'{name} {" or ".join(versions)}' for name, versions in TESTED.items())
        found.append(f'mmvim is not tested with {", ".join(names)}; tested: {tested}')
    if find_spec('mmdet') and find_spec('mmcv') and find_spec('mmcv._ext') is None:
        found.append(str(missing_ops('mmdet')))
    if (torch.version.cuda or torch.version.hip) and not torch.cuda.is_available():
        found.append('this PyTorch is built for GPUs and finds none; if there is one, look at its driver (nvidia-smi)')
    return found
