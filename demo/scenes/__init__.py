"""Scenes drawn by a program: a small, deterministic, licence-free data set for trying models out.

Part of the repository, not of the installed package: import it as ``scenes``, with ``demo/`` on the path.
"""

from scenes.classes import ADE_IDS, CLASSES, PALETTE
from scenes.scene import Scene, render_scene
from scenes.writer import DemoSceneParams, read_record, write_demo_scenes

__all__ = [
    'ADE_IDS',
    'CLASSES',
    'PALETTE',
    'DemoSceneParams',
    'Scene',
    'read_record',
    'render_scene',
    'write_demo_scenes',
]
