"""What every backbone of mmvim is: a module of MMEngine that reads publishers' files as they are."""

from typing import Any, ClassVar

from mmengine.model import BaseModule, PretrainedInit
from mmengine.model.weight_init import initialize


class Backbone(BaseModule):
    """A backbone whose ``init_cfg=dict(type='Pretrained', checkpoint=...)`` goes through mmvim's own reader.

    MMEngine's initializer looks for weights under `state_dict` or bare, knows no prefixes but ``module.``, reads no
    safetensors, logs what is missing as a warning, and, in the maintained family, falls back to unpickling anything.
    mmvim's (``mmvim.Pretrained``, registered by :mod:`mmvim.checkpoints`) fits a published file completely or raises.
    It is found through the registry, so that models know nothing of checkpoints.
    """

    init_cfg: Any
    _pretrained_types: ClassVar[tuple] = ('Pretrained', 'mmvim.Pretrained', PretrainedInit)

    def pretrained(self) -> list[dict]:
        """The entries of `init_cfg` that name a file, as mmvim's initializer takes them."""
        given = self.init_cfg
        listed = [given] if isinstance(given, dict) else list(given or ())
        return [dict(cfg, type='mmvim.Pretrained') for cfg in listed if cfg.get('type') in self._pretrained_types]

    def init_weights(self) -> None:
        """Initialise as MMEngine does, files last and through mmvim's reader."""
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
