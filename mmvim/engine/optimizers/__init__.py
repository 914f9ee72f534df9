"""Optimizer wrapper constructors."""

from .layer_decay import SSM_PARAMETERS, LearningRateDecayOptimWrapperConstructor

__all__ = ['SSM_PARAMETERS', 'LearningRateDecayOptimWrapperConstructor']
