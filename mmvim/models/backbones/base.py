"""The base class of mmvim's backbones: MMEngine modules that read publishers' files as they are."""

import functools
from typing import Any, ClassVar

from mmengine.model import BaseModule, PretrainedInit
from mmengine.model.weight_init import initialize

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
