"""Trackers beside those of MMEngine, which a config's visualizer hands its scalars, pictures and config to."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.visualization import BaseVisBackend
from mmengine.visualization.vis_backend import force_init_env

from mmvim.registry import VISBACKENDS


@VISBACKENDS.register_module()
class TrackioVisBackend(BaseVisBackend):
    """Keep a run in Trackio, a tracker that lives on this machine: ``pip install "mmvim[trackio]"``.

    Nothing leaves the machine unless ``init_kwargs`` or Trackio's own environment variables say so. Scalars and
    pictures are kept below ``TRACKIO_DIR`` (by default in the cache of the Hugging Face hub), and ``trackio show``
    opens a page on them. Source: https://github.com/gradio-app/trackio.

    Args:
        save_dir: The visualizer's folder, of which a run's name is made. Defaults to None.
        project: What the run belongs to. Defaults to 'mmvim'.
        name: Of the run. Defaults to None: that of the work dir with the time of its beginning.
        init_kwargs: Further arguments of ``trackio.init``. Defaults to None.

    Raises:
        ImportError: When it is first used, if Trackio is not installed.

    Examples:
        >>> from mmvim.registry import VISBACKENDS
        >>> # in a config: visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='mmvim.Trackio...')])
        >>> VISBACKENDS.build(dict(type='TrackioVisBackend', save_dir='work_dirs/vim/20261130_101500/vis_data')).name
        'vim-20261130_101500'
    """

    def __init__(
        self,
        save_dir: str | None = None,
        project: str = 'mmvim',
        name: str | None = None,
        init_kwargs: dict | None = None,
    ) -> None:
        super().__init__(save_dir)
        self.project, self.init_kwargs = project, dict(init_kwargs or {})
        parts = Path(os.path.abspath(save_dir)).parts if save_dir else ()
        self.name = name or ('-'.join(parts[-3:-1]) or None)
        self._run: Any = None

    def _init_env(self) -> None:
        try:
            import trackio
        except ImportError as error:
            raise ImportError('TrackioVisBackend needs trackio: pip install "mmvim[trackio]"') from error
        self._trackio = trackio
        arguments = {'resume': 'allow', 'auto_log_gpu': False, 'auto_log_cpu': False, 'embed': False}
        self._run = trackio.init(self.project, self.name, **(arguments | self.init_kwargs))

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The run, an object of Trackio's."""
        return self._run

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Keep the config as text."""
        self._run.config['config'] = config.pretty_text

    @force_init_env
    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Keep a picture, (H, W, 3) uint8, RGB."""
        self._run.log({name: self._trackio.Image(np.ascontiguousarray(image))}, step=int(step))

    @force_init_env
    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Keep a number."""
        self._run.log({name: float(value)}, step=int(step))

    @force_init_env
    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs: Any) -> None:
        """Keep what is a number of a dictionary."""
        numbers = {
            name: float(value)
            for name, value in scalar_dict.items()
            if name != 'step' and (isinstance(value, (int, float, np.number)) or _is_scalar(value))
        }
        self._run.log(numbers, step=int(scalar_dict.get('step', step)))

    def close(self) -> None:
        """Finish the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 0
