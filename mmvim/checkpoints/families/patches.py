"""Patch embeddings of another size."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resample_patches(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample a patch embedding by the pseudo-inverse of the bilinear resizing of its pictures.

    On a picture enlarged bilinearly, a larger patch then gives exactly the tokens that the smaller one gave on the
    picture itself (FlexiViT, https://arxiv.org/abs/2212.08013, Sec. 3.4).

    Args:
        kernel: (embed_dims, in_channels, h, w).
        size: The new (h, w).

    Returns:
        (embed_dims, in_channels, *size), in the kernel's dtype.
    """
    source = tuple(kernel.shape[2:])
    if source == tuple(size):
        return kernel
    basis = torch.eye(source[0] * source[1], dtype=torch.float64).reshape(-1, 1, *source)  # (h * w, 1, h, w)
    # (h * w, H * W): row i is what pixel i of the old patch becomes, so that a picture x becomes x @ resize.
    resize = F.interpolate(basis, size=size, mode='bilinear', align_corners=False).flatten(1)
    flat = kernel.flatten(2).double() @ torch.linalg.pinv(resize).T  # (embed_dims, in_channels, H * W)
    return flat.reshape(*kernel.shape[:2], *size).to(kernel.dtype)
