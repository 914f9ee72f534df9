"""Kernels that read pictures of another number of channels."""

import torch
from torch import Tensor

CHANNEL_CHANGES = ('refuse', 'repeat', 'mean', 'zero')


def change_channels(kernel: Tensor, channels: int, how: str) -> Tensor:
    """Return a kernel for pictures of another number of channels.

    Each way has pictures on which the new kernel gives exactly what the old one gave:

    - 'repeat': the channels of the one are repeated in turn until they are as many as the other's. Of 3 to 5, the
      fourth and fifth are the first and second again, and each takes a half of its weights; of 3 to 1, the only one
      takes the sum of all three. The same for pictures whose further channels repeat the first.
    - 'mean': every channel gets the mean over the old ones, scaled so that their sum stays. The same for grey pictures,
      all of whose channels are equal.
    - 'zero': the first channels keep their weights, and the others start at zero. The same whatever is in the others.

    Args:
        kernel: (D, C, h, w).
        channels: The new C, at least 1.
        how: 'repeat', 'mean' or 'zero'.

    Returns:
        (D, channels, h, w), in the kernel's dtype.

    Raises:
        ValueError: If ``how`` is another word.

    Examples:
        >>> import torch
        >>> from mmvim.checkpoints.families.channels import change_channels
        >>> kernel = torch.tensor([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1)
        >>> [change_channels(kernel, 5, how).flatten().tolist() for how in ('repeat', 'zero')]
        [[0.5, 1.0, 6.0, 0.5, 1.0], [1.0, 2.0, 6.0, 0.0, 0.0]]
        >>> change_channels(kernel, 2, 'mean').flatten().tolist()
        [4.5, 4.5]
    """
    if how not in CHANNEL_CHANGES[1:]:
        raise ValueError(f'how={how!r} is not one of {", ".join(map(repr, CHANNEL_CHANGES[1:]))}')
    old = kernel.shape[1]
    if how == 'zero':
        new = kernel.new_zeros((kernel.shape[0], channels, *kernel.shape[2:]))
        kept = min(old, channels)
        new[:, :kept] = kernel[:, :kept]
        return new
    if how == 'mean':
        mean = kernel.double().mean(1, keepdim=True) * (old / channels)
        return mean.expand(-1, channels, -1, -1).to(kernel.dtype).contiguous()
    longer = max(old, channels)
    # Both sides of the repeated picture: which old channel and which new one meet at each of its channels.
    olds, news = torch.arange(longer) % old, torch.arange(longer) % channels
    shares = torch.bincount(olds, minlength=old).double()
    parts = (kernel.double() / shares.view(-1, 1, 1).to(kernel.device))[:, olds.to(kernel.device)]  # (D, longer, h, w)
    summed = parts.new_zeros((kernel.shape[0], channels, *kernel.shape[2:]))
    return summed.index_add_(1, news.to(kernel.device), parts).to(kernel.dtype)
