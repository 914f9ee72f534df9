"""The causal depthwise convolution of ``causal_conv1d``, and the two functions of its compiled module.

With SiLU it is mmvim's own operator (``mmvim/ops/conv_silu``); without, PyTorch's convolution.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops.conv_silu import conv1d_silu

SILU = ('silu', 'swish')


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve each channel with its filter over the current and the past tokens; ``causal_conv1d``'s function.

    Args:
        x: (B, D, L), any floating point.
        weight: Filters (D, W).
        bias: (D,). Defaults to None.
        seq_idx: Not served. The first versions of the original have the activation in this place; a string is taken as
            such. Defaults to None.
        initial_states: The tokens before the first, (B, D, W - 1). Defaults to None, zeros.
        return_final_states: Return the last W - 1 tokens, too. Defaults to False.
        final_states_out: Where these go, (B, D, W - 1). Defaults to None, a new tensor.
        activation: None, 'silu' or 'swish', which is the same. Defaults to None.

    Returns:
        (B, D, L), contiguous, in the dtype of x; or that and the last W - 1 tokens (B, D, W - 1).

    Raises:
        NotImplementedError: If several sequences are packed into one (``seq_idx``).
        ValueError: If shapes do not fit or the activation is another.

    Examples:
        >>> import torch
        >>> causal_conv1d_fn(torch.ones(1, 2, 4), torch.ones(2, 3))[0, 0]
        tensor([1., 2., 3., 3.])
    """
    if isinstance(seq_idx, str):
        seq_idx, activation = None, seq_idx
    if seq_idx is not None:
        raise NotImplementedError('seq_idx is not served by mmvim.compat: pass each sequence by itself, and None here')
    _check(x, weight, bias, activation)
    batch, dim, length = x.shape
    past = weight.shape[1] - 1
    if initial_states is not None and initial_states.shape != (batch, dim, past):
        raise ValueError(
            f'initial_states must be {(batch, dim, past)}, (B, D, W - 1), got {tuple(initial_states.shape)}'
        )
    whole = x if initial_states is None else torch.cat([initial_states.to(x.dtype), x], dim=-1)
    out = _convolve(whole, weight, bias, activation)[..., whole.shape[-1] - length :].contiguous()
    if not return_final_states:
        return out
    final = F.pad(whole, (max(0, past - whole.shape[-1]), 0))[
        ..., whole.shape[-1] - past if past <= whole.shape[-1] else 0 :
    ]
    return out, final if final_states_out is None else final_states_out.copy_(final)


def causal_conv1d_update(
    x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """Take one token, or a few, at a time: ``causal_conv1d``'s function of generation.

    Args:
        x: (B, D), or (B, D, S) for S tokens.
        conv_state: The tokens before, (B, D, W - 1 or more); moved on in place.
        weight: Filters (D, W).
        bias: (D,). Defaults to None.
        activation: None, 'silu' or 'swish'. Defaults to None.

    Returns:
        As x.

    Raises:
        ValueError: If shapes do not fit or the activation is another.

    Examples:
        >>> import torch
        >>> state = torch.ones(1, 2, 3)
        >>> causal_conv1d_update(torch.ones(1, 2), state, torch.ones(2, 3))
        tensor([[3., 3.]])
    """
    tokens = x[..., None] if x.dim() == 2 else x
    _check(tokens, weight, bias, activation)
    if conv_state.shape[:2] != tokens.shape[:2] or conv_state.shape[-1] < weight.shape[1] - 1:
        raise ValueError(
            f'conv_state must be (B, D, W - 1 or more) for x {tuple(x.shape)} and weight {tuple(weight.shape)}, got '
            f'{tuple(conv_state.shape)}'
        )
    whole = torch.cat([conv_state.to(x.dtype), tokens], dim=-1)
    out = _convolve(whole, weight, bias, activation)[..., -tokens.shape[-1] :].contiguous()
    conv_state.copy_(whole[..., -conv_state.shape[-1] :])
    return out[..., 0] if x.dim() == 2 else out


def causal_conv1d_fwd(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """Run ``causal_conv1d_cuda.causal_conv1d_fwd``, in each form that its versions have.

    Args:
        x: (B, D, L).
        weight: (D, W).
        bias: (D,) or None.
        *rest: Whether SiLU follows, alone; or after a ``seq_idx``; or after that, ``initial_states`` and
            ``final_states_out``. These must be None.

    Returns:
        (B, D, L).

    Raises:
        NotImplementedError: If one of these is given.
        TypeError: If the number of arguments is that of no version.

    Examples:
        >>> import torch
        >>> x, weight = torch.ones(1, 2, 4), torch.ones(2, 3)
        >>> [causal_conv1d_fwd(x, weight, None, *rest)[0, 0, 0] for rest in [(False,), (None, False)]]
        [tensor(1.), tensor(1.)]
    """
    if len(rest) not in (1, 2, 4):
        raise TypeError(f'causal_conv1d_fwd takes 4, 5 or 7 arguments, depending on its version, got {3 + len(rest)}')
    _only_none(rest[:-1])
    return causal_conv1d_fn(
        x.detach(), weight.detach(), None if bias is None else bias.detach(), activation=_name(rest)
    )


def causal_conv1d_bwd(
    x: Tensor, weight: Tensor, bias: Tensor | None, dout: Tensor, *rest: Any
) -> tuple[Tensor | None, ...]:
    """Run ``causal_conv1d_cuda.causal_conv1d_bwd``, in each form that its versions have.

    Args:
        x: (B, D, L).
        weight: (D, W).
        bias: (D,) or None.
        dout: Gradient of the output, (B, D, L).
        *rest: ``dx`` (where the gradient of x goes, or None) and whether SiLU follows; or a ``seq_idx`` before them; or
            ``seq_idx, initial_states, dfinal_states, dx, return_dinitial_states, silu``. All but ``dx`` and the last
            must be None (or False).

    Returns:
        dx, dweight, dbias (None without a bias), in the longest form also None for the initial states.

    Raises:
        NotImplementedError: If one of these is given.
        TypeError: If the number of arguments is that of no version.

    Examples:
        >>> import torch
        >>> x, weight = torch.ones(1, 2, 4), torch.ones(2, 3)
        >>> dx, dweight, dbias = causal_conv1d_bwd(x, weight, None, torch.ones_like(x), None, None, False)
        >>> dx[0, 0], dweight[0], dbias
        (tensor([3., 3., 2., 1.]), tensor([2., 3., 4.]), None)
    """
    if len(rest) not in (2, 3, 6):
        raise TypeError(f'causal_conv1d_bwd takes 6, 7 or 10 arguments, depending on its version, got {4 + len(rest)}')
    place = 3 if len(rest) == 6 else len(rest) - 2
    dx = rest[place]
    _only_none((*rest[:place], *rest[place + 1 : -1]))
    inputs = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
    with torch.enable_grad():
        out = causal_conv1d_fn(*inputs, activation=_name(rest))
    grad_x, dweight, *dbias = torch.autograd.grad(out, inputs, dout)
    results = (grad_x if dx is None else dx.copy_(grad_x), dweight, dbias[0] if dbias else None)
    return (*results, None) if len(rest) == 6 else results


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """Convolve (B, D, L), zeros before it."""
    past = weight.shape[1] - 1
    if activation is None:
        return F.conv1d(F.pad(x, (past, 0)), weight[:, None].to(x.dtype), _like(bias, x), groups=x.shape[1])
    y = conv1d_silu(x.mT, weight[None].to(x.dtype), None if bias is None else _like(bias, x)[None], [past])
    return y[:, 0].mT.to(x.dtype)  # (B, 1, L, D) -> (B, D, L)


def _like(bias: Tensor | None, x: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(x.dtype)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> None:
    if x.dim() != 3 or weight.dim() != 2 or weight.shape[0] != x.shape[1] or 0 in weight.shape:
        raise ValueError(f'x must be (B, D, L) and weight (D, W), got {tuple(x.shape)} and {tuple(weight.shape)}')
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f'bias must be {tuple(weight.shape[:1])}, (D,), got {tuple(bias.shape)}')
    if activation is not None and activation not in SILU:
        raise ValueError(f"activation must be None, 'silu' or 'swish', got {activation!r}")


def _name(rest: tuple[Any, ...]) -> str | None:
    return 'silu' if rest[-1] else None


def _only_none(values: tuple[Any, ...]) -> None:
    if any(value is not None and value is not False for value in values):
        raise NotImplementedError(
            'mmvim.compat serves causal_conv1d_cuda without seq_idx, initial and final states: pass None for each'
        )
