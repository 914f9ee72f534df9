"""Drawing of predictions on pictures that have more, or fewer, bands than a screen."""

import os.path as osp
from collections.abc import Sequence
from inspect import signature
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from mmvim.datasets.bands import as_rgb, check_bands
from mmvim.datasets.load_bands import LoadImageBands, bands_loader
from mmvim.registry import HOOKS


@HOOKS.register_module()
class BandsVisualizationHook(Hook):
    """Draw predictions on three bands of the pictures, for MMSegmentation and MMDetection.

    The libraries' own hooks decode each picture anew, as one of three colours. This one reads it with the
    ``mmvim.LoadImageBands`` of the data set's pipeline and draws with the config's visualizer. It stands in the place
    of ``SegVisualizationHook`` or ``DetVisualizationHook`` and takes their arguments, which ``mmvim test --show-dir``
    sets.

    Args:
        bands: Numbers of the three bands, of those that are loaded, shown as red, green and blue. Defaults to None: the
            first three, or the first in grey.
        percent: Percentiles of a band that become black and white; bytes are shown as they are. Defaults to (2, 98).
        draw: Whether to draw at all. Defaults to False.
        interval: Draw the first picture of every so many batches of a validation. Defaults to 50.
        score_thr: Least score of a box that is drawn. Defaults to 0.3.
        show: Open a window instead of writing. Defaults to False.
        wait_time: Seconds that a window stays open. Defaults to 0.
        test_out_dir: Folder below the run's for the drawings of a test. Defaults to None, what the visualizer has.
        backend_args: Of MMEngine's file backend, where the pipeline has no ``LoadImageBands``. Defaults to None.

    Raises:
        ValueError: If ``bands`` are not three numbers from 0, or ``interval`` is less than 1.

    Examples:
        >>> from mmvim.registry import HOOKS
        >>> hook = HOOKS.build(dict(type='BandsVisualizationHook', bands=(3, 2, 1)))  # default_hooks.visualization
        >>> hook.bands
        (3, 2, 1)
    """

    def __init__(
        self,
        bands: Sequence[int] | None = None,
        percent: tuple[float, float] = (2.0, 98.0),
        draw: bool = False,
        interval: int = 50,
        score_thr: float = 0.3,
        show: bool = False,
        wait_time: float = 0.0,
        test_out_dir: str | None = None,
        backend_args: dict | None = None,
    ) -> None:
        self.bands = check_bands(bands)
        if self.bands is not None and len(self.bands) != 3:
            raise ValueError(f'bands={self.bands} are {len(self.bands)}, and a picture is shown in three')
        if interval < 1:
            raise ValueError(f'interval must be 1 or greater, got {interval}')
        self.percent, self.draw, self.interval, self.score_thr = percent, draw, interval, score_thr
        self.show, self.wait_time, self.test_out_dir = show, wait_time, test_out_dir
        self.backend_args = backend_args
        self._drawn = 0

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        """Draw the first picture of a batch, now and then."""
        step = runner.iter + batch_idx
        if self.draw and outputs and step % self.interval == 0:
            self._add(runner.val_dataloader.dataset, outputs[0], 'val', step, None)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        """Draw all pictures of a batch."""
        folder = self.test_out_dir and osp.join(runner.work_dir, runner.timestamp, self.test_out_dir)
        for sample in outputs or () if self.draw else ():
            self._drawn += 1
            name = osp.splitext(osp.basename(sample.img_path))[0] + '.png'
            out = osp.join(folder, name) if folder else None
            self._add(runner.test_dataloader.dataset, sample, 'test', self._drawn, out)

    def _add(self, dataset: Any, sample: Any, stage: str, step: int, out: str | None) -> None:
        visualizer = Visualizer.get_current_instance()
        loader = bands_loader(dataset) or LoadImageBands(backend_args=self.backend_args)
        picture = as_rgb(loader.read(sample.img_path), self.bands, self.percent)
        options = {'pred_score_thr': self.score_thr, 'out_file': out, 'show': self.show, 'wait_time': self.wait_time}
        taken = signature(visualizer.add_datasample).parameters
        visualizer.add_datasample(
            f'{stage}_{osp.basename(sample.img_path)}',
            picture,
            data_sample=sample,
            step=step,
            **{name: value for name, value in options.items() if name in taken},
        )
