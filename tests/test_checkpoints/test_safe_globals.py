"""Objects beside the tensors that a file may hold."""

import sys
import types
from collections import OrderedDict

import pytest
import torch
from family_cases.vim import SMALL_VIM, published_vim

from mmvim import checkpoints


class CfgNode(dict):
    """The class of yacs as pickle sees it: a dict with settings of its own."""

    __module__, __qualname__ = 'yacs.config', 'CfgNode'

    def __init__(self, *args):
        super().__init__(*args)
        self.__dict__.update({'__immutable__': False, '__deprecated_keys__': set(), '__renamed_keys__': {}})


@pytest.mark.parametrize('legacy', [False, True])
def test_options_in_a_node_of_yacs(tmp_path, monkeypatch, legacy):
    """Scripts descended from Swin's save their options so; they are read without yacs, which is not imported."""
    path, weights = tmp_path / 'swin.pth', published_vim()
    with monkeypatch.context() as patch:
        module = types.ModuleType('yacs.config')
        module.CfgNode = CfgNode
        patch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
        patch.setitem(sys.modules, 'yacs.config', module)
        options = CfgNode({'MODEL': CfgNode({'DEPTHS': [2, 2, 9, 2]}), 'TRAIN': CfgNode({'BETAS': (0.9, 0.999)})})
        torch.save({'model': weights, 'config': options}, path, _use_new_zipfile_serialization=not legacy)
    container = checkpoints.load_file(str(path))
    assert container['config'] == {'MODEL': {'DEPTHS': [2, 2, 9, 2]}, 'TRAIN': {'BETAS': (0.9, 0.999)}}
    assert type(container['config']['MODEL']) is OrderedDict
    assert checkpoints.read(str(path), arch=SMALL_VIM).key == 'model'
