"""Hooks, which run between the iterations of a training."""

from mmvim.engine.hooks.draw_bands import BandsVisualizationHook
from mmvim.engine.hooks.mesa import MESAHook
from mmvim.engine.hooks.progress_bar_hook import ProgressBarHook
from mmvim.engine.hooks.random_state import RandomStateHook
from mmvim.engine.hooks.resume import ResumeHook
from mmvim.engine.hooks.val_loss import ValLossHook

__all__ = [
    'BandsVisualizationHook',
    'MESAHook',
    'ProgressBarHook',
    'RandomStateHook',
    'ResumeHook',
    'ValLossHook',
]
