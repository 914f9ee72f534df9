"""The bidirectional WKV of Vision-RWKV: its attention over all tokens, in linear time."""

from __future__ import annotations

import torch
from torch import Tensor

from mmvim.ops.backends import REFERENCE
from mmvim.ops.bi_wkv.operators import BACKENDS, bi_wkv_fwd
from mmvim.ops.bi_wkv.reference import bi_wkv_reference

BOUNDARIES = ('exact', 'published')


def bi_wkv(
    decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, *, boundary: str = 'exact', backend: str | None = None
) -> Tensor:
    """Average v over all tokens, with weights that fall off with the distance: Vision-RWKV's bidirectional WKV.

    Of each channel, ``out[t]`` is the average of ``v[j]`` with the weights ``exp(k[j] - decay * (|t - j| - 1))`` and,
    for ``j = t``, ``exp(k[t] + bonus)`` (Duan et al., https://arxiv.org/abs/2403.02308, Eq. 3). The definition is in
    ``reference.py``. Time and memory are linear in T. Sums carry their own exponents, so that no k and no decay makes
    them overflow, negative ones neither.

    The arithmetic is float32 (float64 if any input is float64), whatever the inputs or autocast. Every tensor gets its
    gradient; a second derivative raises a RuntimeError, the backend 'reference' has it. An empty input gives an empty
    output.

    Args:
        decay: (C,), any floating dtype; of one token. The paper's w is divided by T: pass ``w / T``.
        bonus: (C,), likewise; the paper's ``u / T``.
        k: Keys (B, T, C), any floating dtype.
        v: Values (B, T, C).
        boundary: 'exact' is the formula above. 'published' reproduces the published kernel, with which the published
            weights were trained: it cuts the tokens into at most 32 segments and weighs those in other segments
            differently (see ``reference.py``). Its weights are not all positive: far beyond ``|decay| = 8 / T`` their
            sum can come near zero, and the output loses digits. Defaults to 'exact'.
        backend: As of :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.

    Returns:
        (B, T, C), contiguous, of the dtype that ``k`` and ``v`` promote to.

    Raises:
        TypeError: If an argument is not a floating-point tensor.
        ValueError: If shapes or devices do not fit, or ``boundary`` or the backend is unknown.

    Examples:
        >>> import torch
        >>> from mmvim.ops import bi_wkv
        >>> k, v = torch.zeros(1, 3, 2), torch.tensor([0.0, 3.0, 6.0])[:, None].expand(1, 3, 2)
        >>> bi_wkv(torch.zeros(2), torch.zeros(2), k, v)[0, :, 0]  # no decay: the mean of all tokens
        tensor([3., 3., 3.])
        >>> bi_wkv(torch.full((2,), 100.0), torch.zeros(2), k, v)[0, :, 0]  # of a token and its neighbours
        tensor([1.5000, 3.0000, 4.5000])
    """
    _check(decay, bonus, k, v, boundary)
    dtype = torch.promote_types(k.dtype, v.dtype)
    real = torch.promote_types(torch.promote_types(decay.dtype, bonus.dtype), torch.promote_types(dtype, torch.float32))
    decay, bonus, k, v, published = decay.to(real), bonus.to(real), k.to(dtype), v.to(dtype), boundary == 'published'
    if BACKENDS.select(backend, k.device.type) == REFERENCE:
        return bi_wkv_reference(decay, bonus, k.to(real), v.to(real), published).to(dtype)
    name = BACKENDS.in_graph(backend)
    needs_gradient = any(x.requires_grad for x in (decay, bonus, k, v))
    if torch.is_grad_enabled() and needs_gradient:
        lay_out = BACKENDS[BACKENDS.select(backend, k.device.type, decay, k)].implementation.lay_out
        k, v = (lay_out(k), lay_out(v)) if lay_out else (k, v)
        return bi_wkv_fwd(decay, bonus, k, v, published, name)
    if torch.compiler.is_compiling():
        return bi_wkv_fwd(decay, bonus, k, v, published, name)
    with torch._C._AutoDispatchBelowAutograd():  # nothing to differentiate: half the time of a call
        return bi_wkv_fwd(decay, bonus, k, v, published, name)


def _check(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, boundary: str) -> None:
    tensors = {'decay': decay, 'bonus': bonus, 'k': k, 'v': v}
    for name, x in tensors.items():
        if not isinstance(x, Tensor) or not x.is_floating_point():
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f'{name} must be a floating-point tensor, got {found}')
    if k.ndim != 3 or v.shape != k.shape:
        raise ValueError(f'k and v must both be (B, T, C), got {tuple(k.shape)} and {tuple(v.shape)}')
    for name, x in (('decay', decay), ('bonus', bonus)):
        if x.shape != k.shape[2:]:
            raise ValueError(f'{name} must be (C,) = ({k.shape[2]},), one for each channel of k, got {tuple(x.shape)}')
        if x.device != k.device:
            raise ValueError(f'{name} is on {x.device}, k on {k.device}: move them to one device')
    if v.device != k.device:
        raise ValueError(f'v is on {v.device}, k on {k.device}: move them to one device')
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary must be 'exact' or 'published', got {boundary!r}")
