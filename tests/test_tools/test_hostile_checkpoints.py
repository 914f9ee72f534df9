"""A checkpoint whose pickle runs code: refused on every way into a training or a test, before MMEngine reads it."""

import os

import pytest
import torch
from mmengine.runner import load_checkpoint

from mmvim.cli.commands import test

pytest.importorskip('mmseg', reason='mmseg is not installed')


class Hurt:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def hostile(tmp_path):
    torch.save({'state_dict': {}, 'meta': Hurt(tmp_path / 'hurt')}, tmp_path / 'hostile.pth')
    return tmp_path / 'hostile.pth'


PRETRAINED = 'init_cfg.type=Pretrained', 'init_cfg.checkpoint={file}'


@pytest.mark.parametrize(
    'words',
    [
        ['--resume', '{file}'],
        ['--cfg-options', 'load_from={file}'],
        *(
            ['--cfg-options', *(f'model.{part}{word}' for word in PRETRAINED)]
            for part in ('', 'backbone.', 'decode_head.')
        ),
    ],
    ids=['resume', 'load_from', 'model', 'backbone', 'head'],
)
def test_training_refuses_it(train, fails, seg, tmp_path, hostile, words):
    given = [word.format(file=hostile) for word in words]
    line = fails(train.main, seg, '--work-dir', tmp_path / 'work', *given, status=1)
    assert 'hostile.pth' in line and 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' in line
    assert not (tmp_path / 'hurt').exists()


def test_testing_refuses_it(fails, seg, tmp_path, hostile):
    line = fails(test.main, seg, hostile, '--work-dir', tmp_path / 'work', status=1)
    assert 'hostile.pth' in line and not (tmp_path / 'hurt').exists()


def test_a_reader_that_unpickles_everything_is_hurt(tmp_path, hostile):
    """The control; MMEngine's reader is such a one, or else PyTorch's own way in it refuses."""
    try:
        load_checkpoint(torch.nn.Identity(), str(hostile), map_location='cpu')
    except Exception as error:
        assert 'weights_only' in str(error) or 'Weights only' in str(error)
        torch.load(hostile, weights_only=False)
    assert (tmp_path / 'hurt').exists()
