"""Fitting of a run to the machine: mixed precision, distributed training without an accelerator, memory of a CPU."""

import ctypes
import os
import platform
import sys

import torch
from mmengine.config import Config
from mmengine.device import get_device, is_cuda_available, is_mlu_available, is_musa_available, is_npu_available

from mmvim.cli.errors import ENVIRONMENT, UserError, warn
from mmvim.cli.threads import core_count, sleeping

_AMP, _BFLOAT16 = 'AmpOptimWrapper', 'Bfloat16OptimWrapper'
_AMP_ONLY = ('loss_scale', 'dtype', 'use_fsdp')
# Parameters of glibc's mallopt (malloc.h); for the second, the largest value that glibc accepts on 64-bit machines.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 1 << 25
_NEVER_TRIM = (1 << 31) - 1
USERS_OWN = ('MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES')


def has_accelerator() -> bool:
    """Check whether MMEngine's ``AmpOptimWrapper`` can run here: on CUDA, NPU, MLU or MUSA.

    Examples:
        >>> import torch
        >>> from mmvim.cli import has_accelerator
        >>> has_accelerator() or not torch.cuda.is_available()
        True
    """
    return is_cuda_available() or is_npu_available() or is_mlu_available() or is_musa_available()


def set_precision(cfg: Config, amp: str | bool | None) -> None:
    """Switch mixed precision on for ``--amp``, and off where a config asks for it on a machine without accelerator.

    Args:
        cfg: The config, changed in place.
        amp: The value of ``--amp``: 'fp16' (or True) for float16 with loss scaling, 'bf16' for bfloat16, which CPUs
            have too; None (or False) if it was not given.

    Raises:
        UserError: If 'fp16' is wanted without an accelerator, or 'bf16' of a device that does not have it, or the
            config has an optimizer wrapper of another kind, or a runner that sets the precision itself.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli import has_accelerator, set_precision
        >>> cfg = Config(dict(optim_wrapper=dict(type='AmpOptimWrapper', loss_scale='dynamic')))
        >>> set_precision(cfg, amp=None)
        >>> cfg.optim_wrapper.type == ('AmpOptimWrapper' if has_accelerator() else 'OptimWrapper')
        True
    """
    wrapper = cfg.get('optim_wrapper') or {}
    kind = str(wrapper.get('type', 'OptimWrapper')).split('.')[-1]
    is_amp = kind == _AMP
    if amp == 'bf16':
        _set_bfloat16(cfg, kind)
    elif amp:
        if not has_accelerator():
            raise UserError(
                '--amp needs a GPU (CUDA, NPU, MLU or MUSA) and there is none',
                'leave it out: training then runs in fp32; or pass --amp bf16, which CPUs have too',
                ENVIRONMENT,
            )
        if is_amp and str(wrapper.get('dtype')).endswith('bfloat16'):
            raise UserError(
                '--amp means float16, and the config has bfloat16 (optim_wrapper.dtype)',
                'leave it out, or say --amp bf16',
            )
        if is_amp:
            warn('--amp: the config enables mixed precision already')
        elif kind == 'OptimWrapper':
            cfg.optim_wrapper.type = _AMP
            cfg.optim_wrapper.loss_scale = 'dynamic'
        else:
            raise UserError(f'--amp works with OptimWrapper, and the config has {wrapper["type"]}', 'leave out --amp')
    elif is_amp and not has_accelerator():
        warn(
            'no GPU: the config asks for mixed precision (AmpOptimWrapper); training in fp32 instead '
            '(--amp bf16 trains in bfloat16)'
        )
        _drop_amp(cfg, 'OptimWrapper')


def _drop_amp(cfg: Config, kind: str) -> None:
    """Give the optimizer wrapper another type, without what only MMEngine's for mixed precision takes."""
    cfg.optim_wrapper.type = kind
    for key in _AMP_ONLY:
        cfg.optim_wrapper.pop(key, None)


def _set_bfloat16(cfg: Config, kind: str) -> None:
    """Train in bfloat16, whatever precision the config has."""
    if kind not in ('OptimWrapper', _AMP, _BFLOAT16):
        raise UserError(
            f'--amp bf16 works with OptimWrapper and AmpOptimWrapper, and the config has {cfg.optim_wrapper.type}',
            'leave out --amp',
        )
    if 'runner_type' in cfg:
        raise UserError(
            f'--amp bf16 works with Runner, and the strategy of {cfg.runner_type} sets the precision itself',
            'set it in the strategy of the config',
        )
    device = get_device()
    if device == 'mps' or (device == 'cuda' and not torch.cuda.is_bf16_supported(including_emulation=False)):
        name = torch.cuda.get_device_name() if device == 'cuda' else 'the GPU of a Mac'
        raise UserError(
            f'--amp bf16: {name} does not compute in bfloat16',
            'pass --amp alone, for float16' if device == 'cuda' else 'leave it out: training then runs in fp32',
            ENVIRONMENT,
        )
    if device == 'cpu' and not cpu_has_bfloat16():
        warn('--amp bf16: this CPU has no instructions for bfloat16, so that training may be slower than in fp32')
    _drop_amp(cfg, f'mmvim.{_BFLOAT16}')


def cpu_has_bfloat16() -> bool:
    """Check whether this CPU multiplies bfloat16 numbers itself (AVX512-BF16 or AMX; taken for granted off x86).

    Examples:
        >>> from mmvim.cli.machine import cpu_has_bfloat16
        >>> cpu_has_bfloat16() in (True, False)
        True
    """
    if platform.machine() not in ('x86_64', 'AMD64'):
        return True
    checks = (getattr(torch.cpu, name, None) for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'))
    return any(check() for check in checks if check is not None)


def check_launcher(launcher: str) -> None:
    """Check that a launcher has set the environment variables that MMEngine reads.

    Args:
        launcher: 'pytorch', 'slurm' or 'mpi'; any other needs none.

    Raises:
        UserError: If one is missing.

    Examples:
        >>> import os
        >>> from unittest import mock
        >>> from mmvim.cli import UserError, check_launcher
        >>> try:
        ...     with mock.patch.dict(os.environ, clear=True):
        ...         check_launcher('slurm')
        ... except UserError as error:
        ...     print(error)
        --launcher slurm: SLURM_PROCID is not set; start with srun, or leave it out
    """
    needed = {
        'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'),
        'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
        'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK', 'MASTER_ADDR'),
    }.get(launcher, ())
    missing = [name for name in needed if name not in os.environ]
    if missing:
        start = {'pytorch': 'torchrun or tools/dist_*.sh', 'slurm': 'srun', 'mpi': 'mpirun'}[launcher]
        raise UserError(f'--launcher {launcher}: {missing[0]} is not set', f'start with {start}, or leave it out')


def prepare_cpu_distribution(cfg: Config) -> None:
    """Make several processes on CPUs train together, which MMEngine's set-up does not provide for.

    Chooses gloo, keeps ``DistributedDataParallel`` from naming a device, and replaces SyncBN, which PyTorch has for
    GPUs only, by BatchNorm, also that which the option ``sync_bn`` asks for. Does nothing with an accelerator, or
    without ``--launcher pytorch``.

    Args:
        cfg: The config, changed in place.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli import prepare_cpu_distribution
        >>> cfg = Config(dict(launcher='none', model=dict(type='Vim')))
        >>> prepare_cpu_distribution(cfg)  # a single process: nothing to prepare
        >>> 'model_wrapper_cfg' in cfg
        False
    """
    if cfg.get('launcher', 'none') != 'pytorch' or has_accelerator():
        return
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    wrapper = cfg.get('model_wrapper_cfg') or {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
    }
    wrapper['device_ids'] = None
    cfg.model_wrapper_cfg = wrapper
    option = cfg.pop('sync_bn', None)  # with which MMEngine turns every batch norm of a model into SyncBN
    if _replace_sync_bn(cfg.model) or option is not None:
        warn('no GPU: SyncBN works on GPUs only; using BatchNorm, whose statistics each process keeps for itself')


def _replace_sync_bn(node: object) -> bool:
    replaced = False
    if isinstance(node, dict):
        if node.get('type') in ('SyncBN', 'MMSyncBN'):
            node['type'] = 'BN'
            replaced = True
        children = list(node.values())
    else:
        children = list(node) if isinstance(node, (list, tuple)) else []
    for child in children:
        replaced = _replace_sync_bn(child) or replaced
    return replaced


def fit_to_cpu(cfg: Config, stages: tuple[str, ...]) -> str:
    """Leave a core to the run itself: no more data workers than the others, and no more threads than cores.

    Args:
        cfg: The config, changed in place.
        stages: Whose data loaders, of 'train', 'val' and 'test'.

    Returns:
        What was chosen, a line for the user.

    Examples:
        >>> from unittest import mock
        >>> from mmengine.config import Config
        >>> from mmvim.cli import machine
        >>> cfg = Config(dict(train_dataloader=dict(num_workers=4, persistent_workers=True)))
        >>> idle = mock.patch.multiple(machine, core_count=lambda: 2, sleeping=lambda: False)
        >>> with idle, mock.patch('torch.get_num_threads', lambda: 2):
        ...     print(machine.fit_to_cpu(cfg, ('train',)))
        CPU: 2 threads, 1 data worker (4 in the config)
        >>> cfg.train_dataloader
        {'num_workers': 1, 'persistent_workers': True}
    """
    cores = core_count()
    if torch.get_num_threads() > cores:  # PyTorch counts those of the machine, not of a container
        torch.set_num_threads(cores)
    most, wanted = 0, 0
    for stage in stages:
        loader = cfg.get(f'{stage}_dataloader') or {}
        workers = loader.get('num_workers', 0)
        if workers > cores - 1:
            loader['num_workers'] = cores - 1
            if cores == 1:  # PyTorch refuses these without workers
                loader['persistent_workers'] = False
                loader.pop('prefetch_factor', None)
        most, wanted = max(most, loader.get('num_workers', 0)), max(wanted, workers)
    threads = torch.get_num_threads()
    line = f'CPU: {threads} thread{"s" * (threads != 1)}, {most} data worker{"s" * (most != 1)}'
    line += '' if most == wanted else f' ({wanted} in the config)'
    return f'{line}; the machine is busy, so threads that wait sleep' if sleeping() else line


def keep_freed_memory() -> bool:
    """Make glibc keep the memory of freed tensors for the next ones, in this process from now on.

    PyTorch allocates every tensor on a CPU anew. By default glibc returns the memory of large tensors to the system
    and fetches it again page by page, zeroed, which takes some 8 % of a training step of Vim-T (docs/benchmarks.md).
    Peak memory stays the same. Tensors above 32 MiB are not affected.

    Returns:
        True if it was done. It is not done with another C library, nor if the user has set
        ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_`` or ``GLIBC_TUNABLES``.

    Examples:
        >>> import os
        >>> from unittest import mock
        >>> from mmvim.cli import keep_freed_memory
        >>> with mock.patch.dict(os.environ, MALLOC_TRIM_THRESHOLD_='131072'):
        ...     keep_freed_memory()
        False
    """
    if any(name in os.environ for name in USERS_OWN) or not sys.platform.startswith('linux'):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, 'gnu_get_libc_version'):  # musl
        return False
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)
    )
