"""The short depthwise convolution with SiLU before a scan."""

from mmvim.ops.conv_silu.interface import conv1d_silu

__all__ = ['conv1d_silu']
