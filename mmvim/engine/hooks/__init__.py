"""Hooks, which run between the iterations of a training."""

from mmvim.engine.hooks.checkpoint import CheckpointHook, CheckpointWriteError
from mmvim.engine.hooks.draw_bands import BandsVisualizationHook
from mmvim.engine.hooks.draw_predictions import DrawPredictionsHook
from mmvim.engine.hooks.learning_curve import LearningCurveHook
from mmvim.engine.hooks.mesa import MESAHook
from mmvim.engine.hooks.nonfinite import NonFiniteLossError, NonFiniteLossHook
from mmvim.engine.hooks.progress_bar_hook import ProgressBarHook
from mmvim.engine.hooks.random_state import RandomStateHook
from mmvim.engine.hooks.resume import ResumeError, ResumeHook
from mmvim.engine.hooks.run_monitor import RunMonitorHook
from mmvim.engine.hooks.unreadable import UnreadableFilesHook
from mmvim.engine.hooks.val_loss import ValLossHook

__all__ = [
    'BandsVisualizationHook',
    'CheckpointHook',
    'CheckpointWriteError',
    'DrawPredictionsHook',
    'LearningCurveHook',
    'MESAHook',
    'NonFiniteLossError',
    'NonFiniteLossHook',
    'ProgressBarHook',
    'RandomStateHook',
    'ResumeError',
    'ResumeHook',
    'RunMonitorHook',
    'UnreadableFilesHook',
    'ValLossHook',
]
