"""What happens around a model while it trains: parameter groups and hooks."""

from mmvim.engine import hooks, optimizers

__all__ = ['hooks', 'optimizers']
