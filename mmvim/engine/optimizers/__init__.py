"""Optimizer wrapper constructors."""

from mmvim.engine.optimizers.layer_decay import SSM_PARAMETERS, LearningRateDecayOptimWrapperConstructor

__all__ = ['SSM_PARAMETERS', 'LearningRateDecayOptimWrapperConstructor']
