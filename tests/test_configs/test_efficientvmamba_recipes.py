"""EfficientVMamba's recipes fit their backbones, and the segmentors have the published sizes."""

import pytest
from checkout import CONFIGS
from test_full_size import build_on_meta, count

from mmvim.models import EfficientVMamba

pytestmark = pytest.mark.slow  # whole published models


@pytest.mark.parametrize(('size', 'millions'), [('tiny', 14), ('small', 29), ('base', 65)])
def test_segmentors_have_the_published_size(size, millions, load):
    """The width of the heads is not published, and was found by this."""
    cfg = load(f'efficientvmamba/efficientvmamba-{size}_upernet_8xb2-160k_ade20k-512x512.py')
    assert count(build_on_meta(cfg.model)) / 1e6 == pytest.approx(millions, abs=0.5)


@pytest.mark.parametrize('file', sorted(f.name for f in (CONFIGS / 'efficientvmamba').glob('*.py')))
def test_widths(file, load):
    model = load(f'efficientvmamba/{file}').model
    dims = [EfficientVMamba.arch_zoo[model.backbone.arch]['dim'] * 2**stage for stage in range(4)]
    assert f'-{model.backbone.arch}_' in file and model.backbone.drop_path_rate == 0.2
    assert (model.decode_head if 'decode_head' in model else model.neck).in_channels == dims
    assert 'auxiliary_head' not in model or model.auxiliary_head.in_channels == dims[2]
