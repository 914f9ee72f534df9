"""Patch embeddings of another size."""

import torch
from torch import Tensor

from mmvim.models.layers.pos_embed import linear, resize_matrix


def resample_patches(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample a patch embedding by the pseudo-inverse of the bilinear resizing of its pictures.

    On a picture enlarged bilinearly, a larger patch then gives exactly the tokens that the smaller one gave on the
    picture itself (FlexiViT, https://arxiv.org/abs/2212.08013, Sec. 3.4).

    Args:
        kernel: (embed_dims, in_channels, h, w).
        size: New (h, w).

    Returns:
        (embed_dims, in_channels, *size), in the kernel's dtype.

    Examples:
        >>> import torch
        >>> small = torch.randn(8, 3, 16, 16)
        >>> large = resample_patches(small, (32, 32))
        >>> large.shape
        torch.Size([8, 3, 32, 32])
        >>> image = torch.randn(1, 3, 16, 16)
        >>> enlarged = torch.nn.functional.interpolate(image, scale_factor=2, mode='bilinear')
        >>> torch.allclose((large * enlarged).sum((1, 2, 3)), (small * image).sum((1, 2, 3)), atol=1e-4)
        True
    """
    source = tuple(kernel.shape[2:])
    if source == tuple(size):
        return kernel
    # A picture x becomes down @ x @ across.T: the pseudo-inverse of the whole is that of the two sides.
    down, across = (
        torch.linalg.pinv(resize_matrix(old, new, linear, torch.float64)) for old, new in zip(source, size, strict=True)
    )
    return (down.mT @ kernel.double() @ across).to(kernel.dtype)  # (H, h) @ (D, C, h, w) @ (w, W)
