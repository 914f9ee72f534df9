"""Which names are served, and which function of mmvim serves each; it imports none of them."""

from __future__ import annotations


def _by(file: str, *names: str, **renamed: str) -> dict[str, str]:
    """Return where names are, ``file:name``; renamed ones are called otherwise in the file."""
    return {name: f'mmvim.compat.{file}:{own}' for name, own in {**{name: name for name in names}, **renamed}.items()}


_NORMS = _by('norms', 'RMSNorm', 'layer_norm_fn', 'rms_norm_fn')
_CONVOLUTION = _by('convolution', 'causal_conv1d_fn', 'causal_conv1d_update')

# Module: name: where it is. A module without names is there for the sake of those in it.
SERVED: dict[str, dict[str, str]] = {
    'mamba_ssm': {**_by('inner', 'selective_scan_fn', 'mamba_inner_fn'), **_by('mixer', 'Mamba')},
    'mamba_ssm.modules': {},
    'mamba_ssm.modules.mamba_simple': _by('mixer', 'Mamba'),
    'mamba_ssm.ops': {},
    'mamba_ssm.ops.selective_scan_interface': _by(
        'inner',
        'selective_scan_fn',
        'selective_scan_ref',
        'mamba_inner_fn',
        'mamba_inner_ref',
        'mamba_inner_fn_no_out_proj',
        'bimamba_inner_fn',
    ),
    'mamba_ssm.ops.triton': {},
    'mamba_ssm.ops.triton.layer_norm': _NORMS,
    'mamba_ssm.ops.triton.layernorm': _NORMS,
    'mamba_ssm.utils': {},
    'mamba_ssm.utils.generation': _by('language', 'GenerationMixin'),
    'mamba_ssm.utils.hf': _by('language', 'load_config_hf', 'load_state_dict_hf'),
    'causal_conv1d': _CONVOLUTION,
    'causal_conv1d.causal_conv1d_interface': _CONVOLUTION,
    'causal_conv1d_cuda': _by('convolution', 'causal_conv1d_fwd', 'causal_conv1d_bwd', 'causal_conv1d_update'),
    'selective_scan_cuda': _by('scan_kernels', fwd='mamba_fwd', bwd='mamba_bwd'),
    'selective_scan_cuda_core': _by('scan_kernels', fwd='core_fwd', bwd='core_bwd'),
    'selective_scan_cuda_oflex': _by('scan_kernels', fwd='oflex_fwd', bwd='core_bwd'),
    'selective_scan_cuda_nrow': _by('scan_kernels', fwd='core_fwd', bwd='core_bwd'),
    'selective_scan_cuda_ndstate': _by('scan_kernels', fwd='core_fwd', bwd='core_bwd'),
}
TOP_LEVEL = tuple(name for name in SERVED if '.' not in name)


def served() -> dict[str, tuple[str, ...]]:
    """Return what mmvim serves on request: modules, and their names.

    Returns:
        Each importable module of another project with the names in it, in a fixed order.

    Examples:
        >>> from mmvim.compat import served
        >>> served()['selective_scan_cuda_oflex']
        ('fwd', 'bwd')
    """
    return {module: tuple(names) for module, names in SERVED.items() if names}


def listing() -> str:
    """Return what is served as one line: ``module (name, name), module (name)``."""
    return ', '.join(f'{module} ({", ".join(names)})' for module, names in served().items())
