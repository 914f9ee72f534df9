"""Everything around a model while it trains, such as parameter groups and hooks."""

from mmvim.engine import hooks, optimizers

__all__ = ['hooks', 'optimizers']
