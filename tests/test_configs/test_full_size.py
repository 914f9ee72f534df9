"""Sizes of the real models, counted without allocating them."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch.overrides import TorchFunctionMode

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


class SchedulesOnCpu(TorchFunctionMode):
    """Keep ``torch.linspace`` on the CPU: rates of stochastic depth are numbers, not weights."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = {**(kwargs or {}), **({'device': 'cpu'} if func is torch.linspace else {})}
        return func(*args, **kwargs)


def build_on_meta(cfg, scope='mmseg'):
    init_default_scope(scope)
    with torch.device('meta'), SchedulesOnCpu():
        return MODELS.build(cfg)


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


CLASSIFIERS = [  # parameters of the published ImageNet-1k classifiers, in millions, and how exactly they are given
    *[('mmvim.Vim', arch, size, 0.5) for arch, size in (('tiny', 7), ('small', 26), ('base', 98))],
    *[
        ('mmvim.MambaVision', arch, size, 0.1)
        for arch, size in (
            ('tiny', 31.8),
            ('tiny2', 35.1),
            ('small', 50.1),
            ('base', 97.7),
            ('large', 227.9),
            ('large2', 241.5),
            ('large3', 739.6),
        )
    ],
]


@pytest.mark.parametrize(('name', 'arch', 'millions', 'within'), CLASSIFIERS, ids=lambda v: str(v))
def test_published_size_of_the_classifiers(name, arch, millions, within):
    options = {'cls_token': 'middle'} if name == 'mmvim.Vim' else {'out_norm': False}
    backbone = build_on_meta({'type': name, 'arch': arch, 'final_norm': True, **options})
    width = backbone.embed_dims if name == 'mmvim.Vim' else backbone.dims[-1]
    head = (width + 1) * 1000
    assert (count(backbone) + head) / 1e6 == pytest.approx(millions, abs=within)


def test_builds_at_full_size_and_readme_tells_its_size(recipe, load):
    cfg = load(recipe)
    model = build_on_meta(cfg.model, cfg.default_scope)
    readme = (CONFIGS / recipe).parent / 'README.md'
    link = f']({Path(recipe).name})'
    (row,) = [line for line in readme.read_text().splitlines() if line.startswith('|') and link in line]
    told = re.search(r'\| *([\d.]+) M *\|', row).group(1)
    assert float(told) == round(count(model) / 1e6, 1)
