"""Patch embeddings of another size."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resample_patches(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample a patch embedding by the pseudo-inverse of the bilinear resizing of its pictures.

    A larger patch then gives, on a picture enlarged bilinearly, exactly the tokens that the smaller one gave on the
    picture itself (FlexiViT, https://arxiv.org/abs/2212.08013, Sec. 3.4).

    Args:
        kernel (Tensor): (embed_dims, in_channels, h, w).
        size (tuple[int, int]): New (h, w).

    Returns:
        Tensor: (embed_dims, in_channels, *size), in the kernel's dtype.
    """
    source = tuple(kernel.shape[2:])
    if source == tuple(size):
        return kernel
    basis = torch.eye(source[0] * source[1], dtype=torch.float64).reshape(-1, 1, *source)
    # Row i: what becomes of pixel i of the old patch; pictures x become x @ resize.
    resize = F.interpolate(basis, size=size, mode='bilinear', align_corners=False).flatten(1)
    flat = kernel.flatten(2).double() @ torch.linalg.pinv(resize).T
    return flat.reshape(*kernel.shape[:2], *size).to(kernel.dtype)
