"""The block of Vim and its relatives.

'Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model', Zhu et al., ICML 2024,
https://arxiv.org/abs/2401.09417, Sec. 3.3.
"""

from typing import ClassVar

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmvim.models.layers.norm import RMSNorm, build_norm
from mmvim.models.layers.plain_layers import dtype_of, is_plain
from mmvim.models.layers.recompute import recompute
from mmvim.models.layers.vim_mixer import VimMixer
from mmvim.ops.rms_norm import add_rms_norm, fuses_add


class VimBlock(nn.Module):
    """Add the previous block's output to the stream, normalise the sum and mix it.

    The stream (``residual``) and the previous mixer's output (``hidden``) are passed on separately, as in the published
    models: dense features are taken from one or the other.

    Args:
        embed_dims: Channels of a token.
        norm_cfg: Norm before the mixer, of tokens.
        mixer_cfg: Arguments of :class:`VimMixer` other than ``embed_dims``.
        drop_path_rate: Probability of dropping this block's own output from the stream of a sample; the caller applies
            ``drop_path`` before the next block, because the 'mixer' feature is taken undropped.

    Raises:
        ValueError: If ``norm_cfg`` is a norm of maps, such as a batch norm.

    Examples:
        >>> import torch
        >>> block = VimBlock(8, {'type': 'mmvim.RMSNorm'}, {'d_state': 4}, drop_path_rate=0.0)
        >>> hidden, residual = block(None, torch.randn(2, 49, 8))
        >>> hidden, residual = block(hidden, residual)
        >>> hidden.shape, residual.shape
        (torch.Size([2, 49, 8]), torch.Size([2, 49, 8]))
    """

    mixer_type: ClassVar[type[nn.Module]] = VimMixer

    def __init__(self, embed_dims: int, norm_cfg: dict, mixer_cfg: dict, drop_path_rate: float) -> None:
        super().__init__()
        self.norm = build_norm(norm_cfg, embed_dims)
        if isinstance(self.norm, (_NormBase, nn.GroupNorm)):
            raise ValueError(
                f"norm_cfg={dict(norm_cfg)} normalises maps, and here are tokens: leave it out, or set type='LN' or "
                "'mmvim.RMSNorm'"
            )
        self.mixer = self.mixer_type(embed_dims, **mixer_cfg)
        self.drop_path = DropPath(drop_path_rate)

    def forward(
        self, hidden: Tensor | None, residual: Tensor, with_cp: bool = False, grid: tuple[int, int] = (0, 0)
    ) -> tuple[Tensor, Tensor]:
        """Add ``hidden`` to the stream, normalise and mix.

        Args:
            hidden: The previous block's output (B, L, C); None before the first block.
            residual: The stream (B, L, C).
            with_cp: Recompute norm and mixer in the backward pass. Defaults to False.
            grid: Rows and columns of the tokens, for a mixer that asks for them. Defaults to (0, 0), unknown.

        Returns:
            The mixer's output and the stream that it was computed from, each (B, L, C). The stream has the dtype that
            both arguments promote to.
        """
        norm, fuse = self.norm, not with_cp and fuses_add(residual)
        if fuse and hidden is not None and isinstance(norm, RMSNorm) and is_plain(RMSNorm, norm):
            # On a GPU the norm does the addition too, in one pass over memory.
            normed, residual = add_rms_norm(hidden, residual, norm.weight, norm.eps)
            return self.mix(normed, grid), residual
        residual = residual if hidden is None else residual + hidden
        # The sum is formed outside the recomputed part, so that only one tensor a block is kept for it.
        if with_cp and residual.requires_grad:
            return recompute(self, self._norm_and_mix, residual, grid), residual
        return self._norm_and_mix(residual, grid), residual

    def _norm_and_mix(self, residual: Tensor, grid: tuple[int, int]) -> Tensor:
        dtype = dtype_of(self.mixer.get_submodule('in_proj'), dtype_of(self.norm, residual.dtype))
        return self.mix(self.norm(residual.to(dtype)), grid)

    def mix(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mix normed tokens (B, L, C)."""
        return self.mixer(tokens)
