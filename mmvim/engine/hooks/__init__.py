"""Hooks: what is done between the iterations of a training."""

from .mesa import MESAHook
from .progress_bar_hook import ProgressBarHook
from .random_state import RandomStateHook

__all__ = ['MESAHook', 'ProgressBarHook', 'RandomStateHook']
