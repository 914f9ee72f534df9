"""Optimizer wrappers and their constructors."""

from mmvim.engine.optimizers.bfloat16 import Bfloat16OptimWrapper
from mmvim.engine.optimizers.layer_decay import SSM_PARAMETERS, LearningRateDecayOptimWrapperConstructor

__all__ = ['SSM_PARAMETERS', 'Bfloat16OptimWrapper', 'LearningRateDecayOptimWrapperConstructor']
