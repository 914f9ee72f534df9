"""Every config as a newcomer types it, on one process: it can take its first step, or it is told what to add."""

import pytest
import small_detectors
import torch
from checkout import is_detector, load_config, need
from mmengine.config import Config

from mmvim.cli import UserError, build_model, has_accelerator, set_precision
from mmvim.cli.first_step import check_first_step


def take_first_step(cfg: Config, narrow, detector: bool) -> None:
    """Batch, size of the pictures and precision are as written; the backbone is narrow, heads and norms are there."""
    cfg.launcher = 'none'
    half = cfg.optim_wrapper.type == 'AmpOptimWrapper'
    if 'roi_head' in cfg.model:
        small_detectors.narrow(cfg.model, shallow=True)
    elif not detector:
        narrow(cfg.model, 1 / 8)
    model = build_model(cfg)
    with torch.autocast('cpu', torch.float16, enabled=half):
        if cfg.train_dataloader.batch_size == 1 and not detector:
            single = r'batch norm decode_head\.psp_modules\.0\.1\.bn one value .*batch_size=2'
            with pytest.raises(UserError, match=single):
                check_first_step(cfg, model)
            cfg.train_dataloader.batch_size = 2
        check_first_step(cfg, model)
    set_precision(cfg, amp=None)  # which says what a machine without a GPU computes in
    assert (cfg.optim_wrapper.type == 'AmpOptimWrapper') == (half and has_accelerator())


def test_first_step_of_every_recipe(recipe_to_start, narrow):
    if is_detector(recipe_to_start):
        need('mmdet')
    take_first_step(load_config(recipe_to_start), narrow, is_detector(recipe_to_start))


def test_first_step_of_every_entry(entry_to_start, narrow):
    if is_detector(entry_to_start):
        need('mmdet')
    take_first_step(load_config(entry_to_start), narrow, is_detector(entry_to_start))
