"""The embedding of each grid cell lands on that cell, whatever the grids."""

import pytest
import torch
from family_cases.base import randomised
from family_cases.vim import SMALL_VIM

from mmvim import checkpoints
from mmvim.models import Vim

CHANNELS = SMALL_VIM['embed_dims']


def classifier(img_size=224, place='middle', stride=16):
    """A published classifier whose positions say where they are: channel 0 the row, 1 the column of their cell."""
    model = randomised(Vim(SMALL_VIM, img_size=img_size, stride=stride, cls_token=place, final_norm=True))
    rows, cols = model.grid_size
    cells = torch.zeros(1, rows * cols, CHANNELS)
    cells[0, :, 0] = (
        torch.arange(rows).repeat_interleave(cols) / rows + 0.5 / rows
    )  # centre of the cell, in the picture
    cells[0, :, 1] = torch.arange(cols).repeat(rows) / cols + 0.5 / cols
    cells[0, :, 2] = 1
    token = torch.full((1, 1, CHANNELS), 99.0)
    at = {'middle': rows * cols // 2, 'head': 0}[place]
    with torch.no_grad():
        model.pos_embed.copy_(torch.cat([cells[:, :at], token, cells[:, at:]], dim=1))
    return model


def load(write, model, **target):
    options = {name: target.pop(name) for name in ('compat', 'cls_token', 'patch_change') if name in target}
    backbone = Vim(SMALL_VIM, **target)
    report = checkpoints.load_backbone(backbone, write(model.state_dict()), **options)
    return backbone, report


@pytest.mark.parametrize(
    ('img_size', 'grid'), [(224, (14, 14)), (512, (32, 32)), ((384, 640), (24, 40)), ((160, 96), (10, 6))]
)
def test_each_cell_keeps_its_place(write, img_size, grid):
    """Resampling keeps what is linear, nearly (the cubic's a is -0.75): each cell must hold its own centre."""
    backbone, report = load(write, classifier(), img_size=img_size)
    got = backbone.pos_embed.detach().reshape(*grid, CHANNELS)
    for axis in (0, 1):
        centres = (torch.arange(grid[axis]) + 0.5) / grid[axis]
        want = centres[:, None] if axis == 0 else centres[None]
        wrong = (got[..., axis] - want).abs()
        assert wrong.max() < 0.25 / 14, 'no cell may move by a quarter of a cell of the old grid'
    assert torch.allclose(got[..., 2], torch.ones(grid), atol=1e-5)
    assert 'row 98 of 197 left out' in report.resized['pos_embed']
    assert set(report.dropped) == {'cls_token', 'norm_f.weight'}


def test_resize_against_hand_computed_positions(write):
    """One spike of the 14 x 14 grid, spread by the cubic kernel (a = -0.75) over the 28 x 28 grid."""
    model = classifier()
    with torch.no_grad():
        model.pos_embed.zero_()
        model.pos_embed[0, 5 * 14 + 3] = 1.0  # row 5, column 3, before the token in the middle
        model.pos_embed[0, 98] = 99.0
    backbone, _ = load(write, model, img_size=448)
    got = backbone.pos_embed.detach()[0].reshape(28, 28, CHANNELS)[..., 0]

    def cubic(x, a=-0.75):
        x = abs(x)
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    row = torch.tensor([cubic((i + 0.5) / 2 - 0.5 - 5) for i in range(28)])
    col = torch.tensor([cubic((i + 0.5) / 2 - 0.5 - 3) for i in range(28)])
    assert torch.allclose(got, row[:, None] * col[None], atol=1e-6)


def test_long_sequence_file(write):
    """730 positions of stride 8: row 364 is the class token's."""
    model = classifier(stride=8)
    assert model.pos_embed.shape[1] == 730
    backbone, report = load(write, model, stride=8)
    assert torch.equal(backbone.pos_embed, torch.cat([model.pos_embed[:, :364], model.pos_embed[:, 365:]], dim=1))
    assert 'row 364 of 730' in report.resized['pos_embed']


def test_the_published_classifier(tensors, write):
    """Of Vim-Ti: 14 x 14 cells for 224 pixels, none of them resized."""
    weights = tensors('vim_tiny_cls')
    backbone = Vim('tiny', init_cfg={'type': 'Pretrained', 'checkpoint': write(weights)})
    backbone.init_weights()
    positions = weights['pos_embed']
    assert torch.equal(backbone.pos_embed, torch.cat([positions[:, :98], positions[:, 99:]], dim=1))


def test_class_token_elsewhere(write):
    backbone, report = load(write, classifier(place='head'), cls_token='head')
    assert torch.allclose(backbone.pos_embed[..., 2], torch.ones(1, 196))
    assert 'row 0 of 197' in report.resized['pos_embed']


def test_class_token_that_the_backbone_has_too(write):
    model = classifier()
    backbone = Vim(SMALL_VIM, img_size=512, cls_token='middle', final_norm=True)
    report = checkpoints.load_backbone(backbone, write(model.state_dict()))
    assert backbone.pos_embed.shape[1] == 1025 and torch.equal(
        backbone.pos_embed[0, 512], torch.full((CHANNELS,), 99.0)
    )
    assert torch.equal(backbone.cls_token, model.cls_token) and not report.dropped


def test_a_class_token_in_another_place_is_refused(write):
    backbone = Vim(SMALL_VIM, cls_token='head', final_norm=True)
    with pytest.raises(checkpoints.CheckpointError, match="place 'middle', and the backbone has cls_token='head'"):
        checkpoints.load_backbone(backbone, write(classifier().state_dict()))
    checkpoints.load_backbone(backbone, write(classifier(place='head').state_dict()), cls_token='head')


def test_upstream_compat_reproduces_the_shift(write):
    model = classifier()
    backbone, report = load(write, model, compat='upstream')
    assert torch.equal(backbone.pos_embed, model.pos_embed[:, 1:])
    got = backbone.pos_embed[0]
    assert torch.equal(got[96], model.pos_embed[0, 97])  # cell 96 has the position of patch 97: shifted by one
    assert torch.equal(got[97], torch.full((CHANNELS,), 99.0))  # cell 97 has the class token's
    assert torch.equal(got[98], model.pos_embed[0, 99])  # cell 98 has its own
    assert 'upstream' in report.resized['pos_embed']
    resized, _ = load(write, model, compat='upstream', img_size=512)
    right, _ = load(write, model, img_size=512)
    assert not torch.allclose(resized.pos_embed, right.pos_embed, atol=1e-2)
    with pytest.raises(checkpoints.CheckpointError, match='compat'):
        load(write, model, compat='wrong')
    with pytest.raises(checkpoints.CheckpointError, match='leaves out'):
        checkpoints.load_backbone(
            Vim(SMALL_VIM, cls_token='middle', final_norm=True), write(model.state_dict()), compat='upstream'
        )


def test_read_resizes_too(write):
    found = checkpoints.read(write(classifier().state_dict()), arch=SMALL_VIM, task='dense', img_size=(96, 160))
    assert found.state_dict['backbone.pos_embed'].shape == (1, 60, CHANNELS)
    assert found.backbone['img_size'] == (96, 160)


def test_positions_of_no_square(write):
    model = Vim(SMALL_VIM, img_size=(96, 160))
    weights = model.state_dict()
    del weights['pos_embed_grid']
    file = write(weights)
    with pytest.raises(checkpoints.CheckpointError, match=r'grid=\(rows, columns\)'):
        checkpoints.load_backbone(Vim(SMALL_VIM), file)
    backbone = Vim(SMALL_VIM, img_size=(96, 160))
    checkpoints.load_backbone(backbone, file, grid=(6, 10))
    assert torch.equal(backbone.pos_embed, model.pos_embed)


def test_patches_of_another_size(write):
    """Refused unless asked for; then a picture enlarged twofold gives the tokens that the picture itself gave."""
    model = classifier()
    with pytest.raises(checkpoints.CheckpointError, match="patch_change='resample'"):
        load(write, model, patch_size=32, img_size=448)
    with pytest.raises(checkpoints.CheckpointError, match='stride 16, and the backbone has 16 x 16 at stride 8'):
        load(write, model, stride=8)
    backbone, report = load(write, model, patch_size=32, img_size=448, patch_change='resample')
    assert '16 x 16 to 32 x 32' in report.resized['patch_embed.proj.weight']
    patch = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(patch, scale_factor=2, mode='bilinear', align_corners=False)
    assert torch.allclose(backbone.patch_embed(large)[0], model.patch_embed(patch)[0], atol=1e-5)
    own = Vim(SMALL_VIM, img_size=96, stride=8)  # of no published grid: nothing tells its stride, and none is refused
    checkpoints.load_backbone(Vim(SMALL_VIM, img_size=128, stride=8), write(own.state_dict()))
    with pytest.raises(checkpoints.CheckpointError, match='stride 16, and'):
        checkpoints.load_backbone(Vim(SMALL_VIM, img_size=128, stride=8), write(own.state_dict()), stride=16)
    backbone, report = load(write, model, stride=8, patch_change='resample')
    assert backbone.grid_size == (27, 27) and '14 x 14 to 27 x 27' in report.resized['pos_embed']
