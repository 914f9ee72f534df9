"""Everything around a model while it trains, such as parameter groups, hooks and shards."""

from mmvim.engine import hooks, optimizers, strategies

__all__ = ['hooks', 'optimizers', 'strategies']
