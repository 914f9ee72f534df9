"""The base classes of mmvim's backbones: MMEngine modules that read publishers' files as they are."""

import functools
from abc import abstractmethod
from typing import Any, ClassVar

from mmengine.model import BaseModule, PretrainedInit
from mmengine.model.weight_init import initialize
from torch import Tensor

from mmvim.models.layers.recompute import recompute

_CHECKPOINTING = 'mmengine.runner.activation_checkpointing'


class Backbone(BaseModule):
    """A backbone whose ``init_cfg=dict(type='Pretrained', checkpoint=...)`` goes through mmvim's own reader.

    MMEngine's initializer looks for weights under ``state_dict`` or at the top level, knows only the prefix
    ``module.``, does not read safetensors, merely warns about missing weights and, in the maintained packages, falls
    back to unpickling anything. mmvim's (``mmvim.Pretrained``, registered by :mod:`mmvim.checkpoints`) fits a published
    file completely or raises. It is looked up in the registry, so that models need not import checkpoints.

    Examples:
        >>> from mmvim.models import Vim
        >>> arch = {'embed_dims': 8, 'depth': 1}
        >>> Vim(arch, init_cfg={'type': 'Pretrained', 'checkpoint': 'vim.pth'}).pretrained()
        [{'type': 'mmvim.Pretrained', 'checkpoint': 'vim.pth'}]
    """

    init_cfg: Any
    _pretrained_types: ClassVar[tuple] = ('Pretrained', 'mmvim.Pretrained', PretrainedInit)

    # All settings of the architecture, as a dict that the argument ``arch`` takes; None if a backbone keeps none.
    arch: dict | None = None
    # Which outputs it computes.
    out_indices: tuple[int, ...] = ()
    # How the names of the parts begin that no output needs, and that are therefore not built.
    not_built: tuple[str, ...] = ()

    def __init__(self, init_cfg: dict | list | None = None) -> None:
        super().__init__(init_cfg)
        self._register_load_state_dict_pre_hook(self.prepare_state_dict)

    def __setattr__(self, name: str, value: Any) -> None:
        # The option ``activation_checkpointing`` of MMEngine puts a function in the place of ``forward`` that calls it
        # under the reentrant form of checkpointing, which stops every gradient because a picture needs none.
        if name == 'forward' and getattr(value, '__globals__', {}).get('__name__') == _CHECKPOINTING:
            value = functools.partial(recompute, self, self.forward)
        super().__setattr__(name, value)

    def prepare_state_dict(self, state_dict: dict, prefix: str, *_: object) -> None:
        """Drop the weights of parts that are not built, so that a complete file fits; called before any is loaded.

        Args:
            state_dict: The weights, changed in place.
            prefix: What stands before this backbone's own names.
        """
        parts = tuple(prefix + part for part in self.not_built)
        for name in [name for name in state_dict if name.startswith(parts)]:
            del state_dict[name]

    def pretrained(self) -> list[dict]:
        """Return the entries of ``init_cfg`` that name a file, as mmvim's initializer takes them."""
        given = self.init_cfg
        listed = [given] if isinstance(given, dict) else list(given or ())
        return [dict(cfg, type='mmvim.Pretrained') for cfg in listed if cfg.get('type') in self._pretrained_types]

    def init_weights(self) -> None:
        """Initialise as MMEngine does, but read files last, with mmvim's reader."""
        files = self.pretrained()
        if not files or self.is_init:
            super().init_weights()
            return
        given = self.init_cfg
        listed = [given] if isinstance(given, dict) else given
        self.init_cfg = [cfg for cfg in listed if cfg.get('type') not in self._pretrained_types]
        try:
            super().init_weights()
        finally:
            self.init_cfg = given
        initialize(self, files)


class PlainBackbone(Backbone):
    """A backbone whose tokens keep one resolution, and whose blocks can be run a few at a time.

    This is what an adapter (:class:`mmvim.ViTAdapter`) asks of the backbone that it stands around: it embeds the
    image, and between groups of blocks it reads and changes the tokens of the patches.

    Attributes:
        embed_dims: Channels C of a token.
        depth: Number of blocks.
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
