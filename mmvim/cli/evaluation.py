"""The options of ``mmvim test`` that MMSegmentation and MMDetection understand differently."""

import copy
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.model import BaseTTAModel
from torch import nn

from mmvim.cli.errors import UserError, warn
from mmvim.models.tiled.segmentor import check_tile


def _library(cfg: Config, option: str) -> str:
    scope = cfg.get('default_scope')
    if scope not in ('mmseg', 'mmdet'):
        raise UserError(f'{option} is known for mmseg and mmdet, and default_scope is {scope!r}', f'leave out {option}')
    return scope


def set_output(cfg: Config, out: str) -> None:
    """Apply ``--out``: write a folder of label maps (mmseg) or a pickle of predictions (mmdet).

    Args:
        cfg: The config, changed in place.
        out: The path.

    Raises:
        UserError: If the path does not suit the library, or no metric of the config writes label maps.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli import set_output
        >>> cfg = Config(dict(default_scope='mmseg', test_evaluator=dict(type='IoUMetric')))
        >>> set_output(cfg, 'work_dirs/labels')
        >>> cfg.test_evaluator.output_dir
        'work_dirs/labels'
    """
    evaluators = cfg.test_evaluator
    evaluators = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    if _library(cfg, '--out') == 'mmdet':
        if not out.endswith(('.pkl', '.pickle')):
            raise UserError(f'--out {out} must end in .pkl or .pickle with an mmdet config', f'pass --out {out}.pkl')
        cfg.test_evaluator = [*evaluators, {'type': 'DumpDetResults', 'out_file_path': out}]
        return
    if Path(out).is_file() or out.endswith(('.pkl', '.pickle')):
        raise UserError(
            f'--out {out} must be a folder with an mmseg config: it receives one label map per image', 'pass a folder'
        )
    metric = next((m for m in evaluators if str(m.get('type')).split('.')[-1] == 'IoUMetric'), None)
    if metric is None:
        raise UserError(f'--out {out} needs IoUMetric in test_evaluator', 'add it, or leave out --out')
    metric['output_dir'] = out
    metric['keep_results'] = True


def set_visualization(cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    """Apply ``--show``, ``--show-dir`` and ``--wait-time``: draw every prediction.

    Args:
        cfg: The config, changed in place.
        show: Open a window.
        show_dir: Folder for the drawings, or None.
        wait_time: Seconds that a window stays open.

    Raises:
        UserError: If the config has no visualization hook, ``show`` finds no display, or ``show_dir`` is a file.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli import set_visualization
        >>> hooks = dict(visualization=dict(type='DetVisualizationHook'))
        >>> cfg = Config(dict(default_scope='mmdet', default_hooks=hooks))
        >>> set_visualization(cfg, show=False, show_dir='drawn', wait_time=2)
        >>> cfg.default_hooks.visualization
        {'type': 'DetVisualizationHook', 'draw': True, 'test_out_dir': 'drawn'}
    """
    if not show and show_dir is None:
        return
    library = _library(cfg, '--show-dir' if show_dir else '--show')
    has_display = any(os.environ.get(name) for name in ('DISPLAY', 'WAYLAND_DISPLAY'))
    if show and sys.platform.startswith('linux') and not has_display:
        raise UserError('--show finds no display', 'pass --show-dir DIR to save the drawings instead')
    if show_dir is not None and Path(show_dir).is_file():
        raise UserError(f'--show-dir {show_dir} is a file', 'pass a folder')
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise UserError(
            'the config has no default_hooks.visualization, which draws',
            f"add visualization=dict(type='{'Seg' if library == 'mmseg' else 'Det'}VisualizationHook')",
        )
    hook['draw'] = True
    if library == 'mmseg':
        hook.setdefault('interval', 1)  # before onedl-mmsegmentation it drew one image in 50
    if show:
        hook['show'] = True
        hook['wait_time'] = wait_time
    if show_dir is not None and library == 'mmdet':
        hook['test_out_dir'] = show_dir
    elif show_dir is not None:
        cfg.visualizer['save_dir'] = show_dir


def set_tta(cfg: Config, model: nn.Module) -> None:
    """Apply ``--tta``: augment at test time by ``tta_model`` and ``tta_pipeline``; for mmdet they default to flips.

    Args:
        cfg: The config, changed in place.
        model: The model, as :func:`build_model` returns it.

    Raises:
        UserError: If an mmseg config lacks one of them, or an mmdet model predicts masks, which mmdet cannot merge.

    Examples:
        >>> from mmengine.config import Config
        >>> from torch import nn
        >>> from mmvim.cli import set_tta
        >>> tta = dict(tta_model=dict(type='SegTTAModel'), tta_pipeline=[dict(type='TestTimeAug')])
        >>> dataset = dict(type='ADE20KDataset', pipeline=[])
        >>> cfg = Config(dict(default_scope='mmseg', model={}, test_dataloader=dict(dataset=dataset), **tta))
        >>> set_tta(cfg, nn.Identity())
        >>> cfg.model.type, cfg.test_dataloader.dataset.pipeline
        ('SegTTAModel', [{'type': 'TestTimeAug'}])
    """
    library = _library(cfg, '--tta')
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    if library == 'mmdet' and getattr(model, 'with_mask', False):
        raise UserError(
            f'--tta: mmdet merges boxes only, and this {type(model).__name__} predicts masks', 'leave out --tta'
        )
    if library == 'mmseg':
        for name in ('tta_model', 'tta_pipeline'):
            if not cfg.get(name):
                raise UserError(
                    f'--tta needs {name} in the config', 'inherit it from the dataset and runtime bases of mmseg'
                )
    if not cfg.get('tta_model'):
        nms = {'type': 'nms', 'iou_threshold': 0.5}
        cfg.tta_model = {'type': 'DetTTAModel', 'tta_cfg': {'nms': nms, 'max_per_img': 100}}
    if not cfg.get('tta_pipeline'):
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        flips = [{'type': 'RandomFlip', 'prob': prob} for prob in (1.0, 0.0)]
        packing = [{'type': 'PackDetInputs', 'meta_keys': keys}]
        augmentation = {'type': 'TestTimeAug', 'transforms': [flips, packing]}
        cfg.tta_pipeline = [*copy.deepcopy(dataset['pipeline'][:-1]), augmentation]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset['pipeline'] = cfg.tta_pipeline


def set_tiles(cfg: Config, model: nn.Module, tile: Sequence[int], overlap: int | None) -> None:
    """Apply ``--tile`` and ``--overlap``: predict pictures tile by tile, with blended seams and bounded memory.

    Args:
        cfg: The config, changed in place.
        model: The model, as :func:`build_model` returns it.
        tile: Height and width of a tile, or one number for both.
        overlap: Least number of pixels that neighbours share; None for a quarter of the smaller side.

    Raises:
        UserError: If the config is not of a segmentor, or a size is out of range.

    Examples:
        >>> from mmengine.config import Config
        >>> from torch import nn
        >>> from mmvim.cli.evaluation import set_tiles
        >>> class Segmentor(nn.Module):
        ...     def encode_decode(self, inputs, metas): ...
        >>> cfg = Config(dict(default_scope='mmseg', model=dict(type='EncoderDecoder'), test_dataloader={}))
        >>> set_tiles(cfg, Segmentor(), [1024], None)
        >>> cfg.model.type, cfg.model.module.type, cfg.model.tile
        ('mmvim.TiledSegmentor', 'EncoderDecoder', [1024, 1024])
    """
    if _library(cfg, '--tile') != 'mmseg' or not hasattr(model, 'encode_decode'):
        raise UserError(
            f'--tile is for segmentors of mmseg, and this is a {type(model).__name__}', 'leave out --tile and --overlap'
        )
    if len(tile) > 2:
        raise UserError(f'--tile {" ".join(map(str, tile))} is not one or two numbers', 'give a height and a width')
    try:
        sides, overlap = check_tile(tile[0] if len(tile) == 1 else tile, overlap)
    except ValueError as error:
        problem = f'--{error}'.replace('=', ' ', 1)
        raise UserError(problem, 'give sizes in pixels, such as --tile 1024 --overlap 256') from error
    dataset = cfg.test_dataloader.get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    resize = next((step for step in dataset.get('pipeline') or () if str(step.get('type')).endswith('Resize')), None)
    if resize is not None:
        warn(
            f'--tile: the test pipeline resizes pictures (scale={resize.get("scale")}) before they are cut into tiles; '
            'leave Resize out of it to predict them at their full size'
        )
    cfg.model = ConfigDict(type='mmvim.TiledSegmentor', module=cfg.model, tile=list(sides), overlap=overlap)


def without_wrapper(model: nn.Module) -> nn.Module:
    """Return the model that stands in one for test-time augmentation or for tiles, or the model itself.

    Args:
        model: The model.

    Examples:
        >>> from torch import nn
        >>> from mmvim.cli.evaluation import without_wrapper
        >>> type(without_wrapper(nn.Identity())).__name__
        'Identity'
    """
    return model.module if isinstance(model, BaseTTAModel) else model
