"""Everything around a model while it trains, such as parameter groups, hooks, shards and trackers."""

from mmvim.engine import hooks, optimizers, strategies, vis_backends

__all__ = ['hooks', 'optimizers', 'strategies', 'vis_backends']
