"""What holds for every test."""

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer


@pytest.fixture(autouse=True)
def no_globals_of_runners():
    """Leave none of MMEngine's globals behind: a logger that a test silenced would be silent in the next one."""
    yield
    for cls in (DefaultScope, MMLogger, MessageHub, Visualizer):
        cls._instance_dict.clear()
