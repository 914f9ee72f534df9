"""The bidirectional WKV by its definition, token by token against all tokens, differentiated by autograd.

For each channel, with decay w and bonus u of a token, out[t] is an average of v (Duan et al., Vision-RWKV,
https://arxiv.org/abs/2403.02308, Eq. 3):

    out[t] = (sum over j of W[t, j] exp(k[j]) v[j]) / (sum over j of W[t, j] exp(k[j]))
    W[t, t] = exp(u),   W[t, j] = exp(-w (|t - j| - 1)) for other j

The published weights were trained with a kernel that computes something else. It cuts the T tokens into segments of
n = ceil(T / 32), and with s = n floor(t / n), the first token of t's own,

    W[t, j] = exp(-w |t - j|)                                         for j < s and j > t
    W[t, j] = exp(-w (t - j - 1)), or exp(u) where j = t              for s <= j <= t
    W[t, j] grows by exp(w (t - j)) (1 - exp(w))                      for s < j <= t
"""

import torch
from torch import Tensor


def bi_wkv_reference(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool) -> Tensor:
    """Return the output (B, T, C) of decay and bonus (C,), k and v (B, T, C), all of one dtype."""
    length = k.shape[1]
    segment = -(-length // 32) if published else max(length, 1)
    j = torch.arange(length, device=k.device)[:, None]  # (T, 1)
    outputs = []
    # 1 - exp(decay) as factor * exp(lift), so that it does not overflow; clamped, so that no gradient does either.
    large = decay > 30
    lift = torch.where(large, decay, 0)
    factor = torch.where(large, torch.expm1(-decay.clamp(min=30)), -torch.expm1(decay.clamp(max=30)))
    for t in range(length):
        first, distance = t // segment * segment, (t - j).abs()
        inside = (j < t) & (j >= first) if published else j != t
        exponent = -decay * (distance - inside.to(k.dtype))  # (T, C)
        exponent = torch.where(j == t, bonus, exponent) + k  # (B, T, C)
        extra = decay * distance + k + lift
        grows = (j > first) & (j <= t) & published
        top = torch.maximum(exponent, torch.where(grows, extra, exponent)).amax(1, keepdim=True).detach()
        weights = torch.exp(exponent - top)
        growth = torch.exp(torch.where(grows, extra - top, 0)) * factor
        weights = weights + torch.where(grows, growth, 0)  # (B, T, C)
        outputs.append((weights * v).sum(1) / weights.sum(1))
    return torch.stack(outputs, dim=1) if outputs else v * k
