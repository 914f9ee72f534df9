"""The base class of the plain backbones, whose tokens keep one resolution."""

from abc import abstractmethod
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from mmvim.models.backbones.base import Backbone
from mmvim.models.backbones.common import freeze


class PlainBackbone(Backbone):
    """A backbone whose tokens keep one resolution, and whose blocks can be run a few at a time.

    This is what an adapter (:class:`mmvim.ViTAdapter`) asks of the backbone that it stands around: it embeds the
    image, and between groups of blocks it reads and changes the tokens of the patches.

    Attributes:
        embed_dims: Channels C of a token.
        depth: Number of blocks.
        layers: The blocks that are built.
        needed: Number of blocks that the outputs need.
        frozen_stages: -1 freezes nothing, 0 the embeddings, n also the first n blocks.
        last_norm: Name of the norm behind the last block. Defaults to 'ln1'.
        bare: Arguments with which the backbone is embeddings and blocks alone: all blocks are built, and nothing that
            only its own outputs need.

    Examples:
        >>> import torch
        >>> from mmvim.models import Vim
        >>> model = Vim({'embed_dims': 16, 'depth': 4}, img_size=64, **Vim.bare).eval()
        >>> image = torch.randn(1, 3, 64, 96)
        >>> tokens, grid = model.embed(image)
        >>> tokens.shape, grid, model.patch_stride
        (torch.Size([1, 24, 16]), (4, 6), (16, 16))
        >>> tokens = model.run_blocks(model.run_blocks(tokens, grid, 0, 1), grid, 1, 4)
        >>> torch.allclose(tokens.transpose(1, 2).unflatten(2, grid), model(image)[0], atol=1e-5)
        True
    """

    embed_dims: int
    depth: int
    layers: nn.ModuleList
    needed: int
    frozen_stages: int
    last_norm: ClassVar[str] = 'ln1'
    bare: ClassVar[dict[str, Any]] = {}

    @property
    @abstractmethod
    def patch_stride(self) -> tuple[int, int]:
        """Distance of neighbouring patches in pixels, down and across."""

    @abstractmethod
    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Make the tokens that the first block gets, positions included.

        Args:
            images: (B, in_channels, H, W), any H and W.

        Returns:
            Tokens (B, L, C), those of the patches in raster order; and the grid of patches (h, w). L is h * w, and
            more if there are class tokens.
        """

    @abstractmethod
    def run_blocks(self, tokens: Tensor, grid: tuple[int, int], first: int, stop: int) -> Tensor:
        """Run the blocks ``first`` to ``stop - 1``.

        Args:
            tokens: The stream (B, L, C) before block ``first``, from :meth:`embed` or from this method.
            grid: Rows and columns of patches.
            first: The first block.
            stop: One more than the last block.

        Returns:
            The stream (B, L, C) after block ``stop - 1``, stochastic depth applied, without any norm.
        """

    def patches_of(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the tokens of the patches (B, h * w, C) among tokens (B, L, C)."""
        return tokens

    def with_patches(self, tokens: Tensor, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return tokens (B, L, C) whose patches are replaced by ``patches`` (B, h * w, C)."""
        return patches

    def embeddings(self) -> tuple[str, ...]:
        """Return the names of the parts before the first block."""
        return 'patch_embed', 'pos_embed'

    def _freeze(self) -> None:
        """Freeze what ``frozen_stages`` says, and what no output needs; to be called at the end of ``__init__``."""
        if self.frozen_stages >= 0:
            freeze(*(getattr(self, name) for name in self.embeddings()), *self.layers[: self.frozen_stages])
        if self.needed < self.depth:
            freeze(*self.layers[self.needed :], getattr(self, self.last_norm))

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; frozen parts stay in eval mode."""
        super().train(mode)
        self._freeze()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return a parameter's depth for layer-wise learning rates: embeddings 0, block i at i + 1, norms last.

        Args:
            param_name: Full name of the parameter.
            prefix: What stands before this backbone's own names. Defaults to ''.

        Returns:
            The parameter's depth, and the number of depths (blocks + 2).
        """
        depths = self.depth + 2
        part, *rest = param_name[len(prefix) :].split('.') if param_name.startswith(prefix) else ('',)
        if part in self.embeddings():
            return 0, depths
        if part == 'layers':
            return int(rest[0]) + 1, depths
        return depths - 1, depths
