"""Scenes drawn by a program: a small, deterministic, licence-free data set for trying models out."""

from mmvim.datasets.demo_scenes.classes import ADE_IDS, CLASSES, PALETTE
from mmvim.datasets.demo_scenes.scene import Scene, render_scene
from mmvim.datasets.demo_scenes.writer import DemoSceneParams, read_record, write_demo_scenes

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
