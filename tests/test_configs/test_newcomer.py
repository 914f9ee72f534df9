"""Every recipe as a newcomer types it, on one process: it can take its first step, or it is told what to add."""

import pytest
import small_detectors
from checkout import is_detector, load_config

from mmvim.cli import UserError, build_model
from mmvim.cli.first_step import check_first_step


def test_first_step_of_every_recipe(recipe_to_start, narrow):
    """Batch and size of the pictures are as written; the backbone is narrow, heads and norms are there."""
    recipe = recipe_to_start
    cfg = load_config(recipe)
    cfg.launcher = 'none'
    if 'roi_head' in cfg.model:
        small_detectors.narrow(cfg.model, shallow=True)
    elif not is_detector(recipe):
        narrow(cfg.model, 1 / 8)
    model = build_model(cfg)
    if cfg.train_dataloader.batch_size == 1 and not is_detector(recipe):
        single = r'batch norm decode_head\.psp_modules\.0\.1\.bn one value .*batch_size=2'
        with pytest.raises(UserError, match=single):
            check_first_step(cfg, model)
        cfg.train_dataloader.batch_size = 2
    check_first_step(cfg, model)
