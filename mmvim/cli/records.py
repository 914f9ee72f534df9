"""What every training keeps of itself beside checkpoints: throughput, memory, states, a learning curve."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvim.engine.hooks import LearningCurveHook, RunMonitorHook


def add_record_hooks(runner: Runner) -> None:
    """Register the hooks that log and draw how a training goes, unless the config has its own.

    Args:
        runner: The runner of a training.

    Examples:
        >>> from types import SimpleNamespace
        >>> from mmvim.cli.records import add_record_hooks
        >>> hooks = []
        >>> add_record_hooks(SimpleNamespace(hooks=hooks, register_hook=hooks.append))
        >>> [type(hook).__name__ for hook in hooks]
        ['RunMonitorHook', 'LearningCurveHook']
    """
    hooks: tuple[Hook, ...] = (RunMonitorHook(), LearningCurveHook())
    for hook in hooks:
        if not any(isinstance(other, type(hook)) for other in runner.hooks):
            runner.register_hook(hook)
