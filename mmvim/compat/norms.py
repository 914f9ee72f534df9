"""The norms of ``mamba_ssm.ops.triton.layer_norm`` (``layernorm`` in older versions), with the residual add before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvim.ops.rms_norm import add_rms_norm


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    *,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Add a residual, and normalise the sum.

    What follows ``residual`` must be named: versions of the original differ in its order.

    Args:
        x: (..., C), any floating point.
        weight: (C,).
        bias: (C,) or None.
        residual: Added to x, (..., C). Defaults to None.
        eps: Added to the variance. Defaults to 1e-6.
        prenorm: Return the sum, too. Defaults to False.
        residual_in_fp32: Return the sum in float32 where there is no residual yet. Defaults to False.
        is_rms_norm: Divide by the root of the mean square, and subtract no mean. Defaults to False.

    Returns:
        The normalised sum in x's dtype; or that and the sum, in the dtype of the residual.

    Raises:
        ValueError: If shapes do not fit.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[1.0, 3.0]])
        >>> layer_norm_fn(x, torch.ones(2), torch.zeros(2), residual=x, prenorm=True)[1]
        tensor([[2., 6.]])
    """
    for name, value, shape in (
        ('weight', weight, x.shape[-1:]),
        ('bias', bias, x.shape[-1:]),
        ('residual', residual, x.shape),
    ):
        if value is not None and value.shape != shape:
            raise ValueError(f'{name} must be {tuple(shape)} for x {tuple(x.shape)}, got {tuple(value.shape)}')
    if residual is not None:
        stream = residual.dtype
    else:
        stream = torch.promote_types(x.dtype, torch.float32) if residual_in_fp32 else x.dtype
    if is_rms_norm:
        y, total = add_rms_norm(x, residual, weight, eps)
        y = y if bias is None else y + bias
    else:
        wide = torch.promote_types(x.dtype, torch.float32)
        total = x.to(wide) if residual is None else residual.to(wide) + x.to(wide)
        y = F.layer_norm(total, weight.shape, weight.to(wide), None if bias is None else bias.to(wide), eps)
    return (y.to(x.dtype), total.to(stream)) if prenorm else y.to(x.dtype)


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    *,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run :func:`layer_norm_fn` with ``is_rms_norm=True``.

    Args:
        x: (..., C), any floating point.
        weight: (C,).
        bias: (C,) or None.
        residual: Added to x, (..., C). Defaults to None.
        eps: Added to the mean square. Defaults to 1e-6.
        prenorm: Return the sum, too. Defaults to False.
        residual_in_fp32: Return the sum in float32 where there is no residual yet. Defaults to False.

    Returns:
        The normalised sum in x's dtype; or that and the sum, in the dtype of the residual.

    Raises:
        ValueError: If shapes do not fit.

    Examples:
        >>> import torch
        >>> rms_norm_fn(torch.full((1, 4), 2.0), torch.ones(4), None).round(decimals=4)
        tensor([[1., 1., 1., 1.]])
    """
    return layer_norm_fn(
        x,
        weight,
        bias,
        residual,
        eps=eps,
        prenorm=prenorm,
        residual_in_fp32=residual_in_fp32,
        is_rms_norm=True,
    )


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich, https://arxiv.org/abs/1910.07467) as ``mamba_ssm`` has it.

    Args:
        hidden_size: Channels, C.
        eps: Added to the mean square. Defaults to 1e-5.
        device: Where the weight is. Defaults to None, PyTorch's default.
        dtype: Of the weight. Defaults to None, PyTorch's default.

    Examples:
        >>> import torch
        >>> RMSNorm(4)(torch.full((1, 4), 3.0)).round(decimals=4)
        tensor([[1., 1., 1., 1.]], grad_fn=...)
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter('bias', None)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Normalise (..., C), see :func:`rms_norm_fn`."""
        return rms_norm_fn(
            x,
            self.weight,
            self.bias,
            residual,
            eps=self.eps,
            prenorm=prenorm,
            residual_in_fp32=residual_in_fp32,
        )
