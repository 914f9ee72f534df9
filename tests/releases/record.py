"""Tiny checkpoints of a version, which every later one must load.

    python tests/releases/record.py        # when a version is released; tests/releases/<version>/ is then committed

For each family it writes ``<family>.pth``, a backbone's weights as ``torch.save`` and ``state_dict`` give them, and
into ``record.json`` its config and what it computes for :func:`picture`. ``run.pth`` is what MMEngine's runner keeps of
a segmentor after one iteration, with optimizer, message hub and config. ``tests/test_checkpoints/test_releases.py``
builds from the recorded configs, loads the files and compares. What a version does not have yet is left out: the folder
0.1.0 was written by this file beside the code of the last commit before the first change that UPGRADING.md lists.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import Dataset

import mmvim

FOLDER = Path(__file__).resolve().parent
SIDE = 32
PYRAMID = {'depths': (1, 1, 1, 1), 'dim': 4}
PLAIN = {'patch_size': 8, 'img_size': SIDE}
BACKBONES: dict[str, dict] = {
    'vim': {'type': 'mmvim.Vim', 'arch': {'embed_dims': 8, 'depth': 2, 'd_state': 4}, **PLAIN},
    'mambavision': {
        'type': 'mmvim.MambaVision',
        'arch': {
            'depths': (1, 1, 2, 2),
            'dim': 4,
            'in_dim': 4,
            'num_heads': (1, 1, 2, 2),
            'window_sizes': (4, 4, 2, 1),
        },
    },
    'vmamba': {'type': 'mmvim.VMamba', 'arch': PYRAMID},
    'msvmamba': {'type': 'mmvim.MSVMamba', 'arch': PYRAMID},
    'efficientvmamba': {'type': 'mmvim.EfficientVMamba', 'arch': PYRAMID},
    'localvmamba': {'type': 'mmvim.LocalVMamba', 'arch': {**PYRAMID, 'directions': ('h', 'v_flip', 'w2', 'w7_flip')}},
    'localvim': {
        'type': 'mmvim.LocalVim',
        'arch': {'embed_dims': 8, 'depth': 2, 'd_state': 2, 'directions': ('h', 'h_flip', 'v', 'v_flip')},
        'out_indices': 1,
        **PLAIN,
    },
    'plainmamba': {
        'type': 'mmvim.PlainMamba',
        'arch': {'embed_dims': 8, 'depth': 2, 'd_state': 4, 'stem_dims': 4, 'stem_convs': 1, 'conv_blocks': (0,)},
        'out_indices': 1,
        'img_size': SIDE,
    },
    'vrwkv': {'type': 'mmvim.VRWKV', 'arch': {'embed_dims': 8, 'depth': 2}, 'out_indices': 1, **PLAIN},
}


def picture() -> Tensor:
    """Return the picture (1, 3, 32, 32) that outputs are recorded for; no random numbers, which may change."""
    return ((torch.arange(3 * SIDE * SIDE) * 7) % 31).float().view(1, 3, SIDE, SIDE) / 15 - 1


def summary(outputs: tuple[Tensor, ...]) -> list[dict]:
    """Return shape, norm and the first numbers of each output."""
    return [
        {'shape': list(x.shape), 'norm': x.double().norm().item(), 'first': x.flatten()[:16].tolist()} for x in outputs
    ]


def fill(model: torch.nn.Module) -> None:
    """Give each weight numbers that nothing in the model begins with, so that a weight that is not loaded shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)


class Pictures(Dataset):
    """Two pictures with their labels, as PackSegInputs would make them."""

    metainfo: ClassVar[dict] = {'classes': ('left', 'right'), 'palette': [[0, 0, 0], [255, 255, 255]]}

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict:
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        labels = torch.zeros(1, SIDE, SIDE, dtype=torch.long)
        labels[:, :, SIDE // 2 :] = 1
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
        sample.set_metainfo({'img_path': f'{index}.png', 'ori_shape': (SIDE, SIDE), 'img_shape': (SIDE, SIDE)})
        return {'inputs': (picture()[0] * 100 + 128).byte(), 'data_samples': sample}


def run_config(work_dir: str) -> Config:
    """Return the config of a training of one iteration; a second one is what a test goes on with."""
    return Config(
        {
            'default_scope': 'mmseg',
            'work_dir': work_dir,
            'model': {
                'type': 'EncoderDecoder',
                'data_preprocessor': {'type': 'SegDataPreProcessor', 'size': (SIDE, SIDE), 'seg_pad_val': 255},
                'backbone': BACKBONES['vim'],
                'decode_head': {
                    'type': 'FCNHead',
                    'in_channels': 8,
                    'in_index': 0,
                    'channels': 4,
                    'num_convs': 1,
                    'concat_input': False,
                    'num_classes': 2,
                    'norm_cfg': {'type': 'BN'},
                },
                'train_cfg': {},
                'test_cfg': {'mode': 'whole'},
            },
            'train_dataloader': {
                'batch_size': 2,
                'num_workers': 0,
                'sampler': {'type': 'DefaultSampler', 'shuffle': False},
                'dataset': {'type': 'PicturesOfRelease'},
                'collate_fn': {'type': 'pseudo_collate'},
            },
            'train_cfg': {'type': 'IterBasedTrainLoop', 'max_iters': 1},
            'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'AdamW', 'lr': 1e-3}},
            'param_scheduler': [{'type': 'PolyLR', 'by_epoch': False, 'end': 4}],
            'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False}},
            'randomness': {'seed': 0},
            'log_level': 'ERROR',
            'experiment_name': f'release_{os.getpid()}_{Path(work_dir).name}',
        }
    )


def runner(work_dir: str) -> Runner:
    """Return a runner of :func:`run_config`."""
    import mmseg.models  # noqa: F401  (registers the segmentor)
    from mmengine.registry import DATASETS

    DATASETS.register_module(name='PicturesOfRelease', module=Pictures, force=True)
    return Runner.from_cfg(run_config(work_dir))


def record(folder: Path) -> None:
    """Write the checkpoints of the mmvim that is imported."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {'version': mmvim.__version__, 'torch': torch.__version__.partition('+')[0], 'backbones': {}}
    for name, config in BACKBONES.items():
        try:
            backbone = MODELS.build(dict(config))
        except KeyError:  # not yet
            continue
        backbone.init_weights()
        fill(backbone)
        torch.save(backbone.state_dict(), folder / f'{name}.pth')
        with torch.no_grad():
            outputs = backbone.eval()(picture())
        written['backbones'][name] = {'config': config, 'outputs': summary(outputs)}
    with tempfile.TemporaryDirectory() as work_dir:
        training = runner(work_dir)
        fill(training.model)
        training.train()
        with torch.no_grad():
            logits = training.model.eval().encode_decode(picture(), [{'img_shape': (SIDE, SIDE)}])
        (folder / 'run.pth').write_bytes(Path(work_dir, 'iter_1.pth').read_bytes())
    written['run'] = summary((logits,))
    (folder / 'record.json').write_text(json.dumps(written, indent=1) + '\n')


if __name__ == '__main__':
    record(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / mmvim.__version__)
