"""The product of tokens with a matrix, by whichever of PyTorch's libraries is fast on this processor."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops.define import autocast_dtype, is_watched


@functools.cache
def onednn_serves() -> bool:
    """Return whether float32 products are oneDNN's here: on x86 processors that are not Intel's.

    PyTorch leaves them to Intel's MKL, which took two to three times as long on an AMD EPYC with AVX-512.
    """
    if platform.machine() not in ('x86_64', 'AMD64') or not torch.backends.mkl.is_available():
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, '_linear_pointwise'):
        return False
    try:
        return 'GenuineIntel' not in Path('/proc/cpuinfo').read_text('utf-8', 'replace')
    except OSError:
        return 'GenuineIntel' not in platform.processor()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias`` as :func:`torch.nn.functional.linear` does, faster where no gradient is wanted.

    Args:
        x: (..., in), any floating dtype.
        weight: (out, in).
        bias: (out,). Defaults to None.

    Returns:
        (..., out), in the dtype of ``x`` or, under autocast, in its.

    Examples:
        >>> import torch
        >>> from mmvim.ops.linear import linear
        >>> x, weight = torch.randn(2, 5, 8), torch.randn(3, 8)
        >>> with torch.no_grad():
        ...     torch.allclose(linear(x, weight), x @ weight.T, atol=1e-5)
        True
    """
    if (
        onednn_serves()
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == 'cpu'
        and x.numel() > 0
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and not is_watched()
        and autocast_dtype(x) is None
    ):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')
    return F.linear(x, weight, bias)
