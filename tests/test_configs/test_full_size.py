"""Sizes of the real models, counted without allocating them."""

import re
from pathlib import Path

import pytest
import torch
from checkout import CONFIGS
from families import FAMILY_CASES, each
from mmengine.registry import MODELS, init_default_scope

from mmvim.checkpoints.families import FAMILIES

pytestmark = pytest.mark.slow  # whole published models


def build_on_meta(cfg, scope='mmseg'):
    init_default_scope(scope)
    with torch.device('meta'):
        return MODELS.build(cfg)


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(('family', 'arch'), each('sizes'))
def test_published_size_of_the_classifiers(family, arch):
    case = FAMILY_CASES[family]
    backbone = build_on_meta({'type': case.type, 'arch': arch, **case.classifier})
    width = backbone.get_parameter(FAMILIES[family].final_norm).shape[0]
    millions, within = case.sizes[arch]
    assert (count(backbone) + (width + 1) * 1000) / 1e6 == pytest.approx(millions, abs=within)


def test_builds_at_full_size_and_readme_tells_its_size(recipe, load):
    cfg = load(recipe)
    model = build_on_meta(cfg.model, cfg.default_scope)
    readme = (CONFIGS / recipe).parent / 'README.md'
    link = f']({Path(recipe).name})'
    (row,) = [line for line in readme.read_text().splitlines() if line.startswith('|') and link in line]
    told = re.search(r'\| *([\d.]+) M *\|', row).group(1)
    assert float(told) == round(count(model) / 1e6, 1)
