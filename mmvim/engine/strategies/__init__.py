"""How MMEngine's ``FlexibleRunner`` distributes a training."""

from mmvim.engine.strategies.fsdp import FSDPStrategy

__all__ = ['FSDPStrategy']
