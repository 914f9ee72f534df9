"""Weights for pictures of 3 channels in a backbone for another number: what becomes of the stem, family by family."""

import pytest
import torch
from families import FAMILY_CASES
from family_cases.base import randomised
from torch import nn

from mmvim import checkpoints
from mmvim.checkpoints import CheckpointError
from mmvim.checkpoints.families import FAMILIES
from mmvim.checkpoints.families.channels import change_channels
from mmvim.models import Vim, ViTAdapter

WAYS = ('repeat', 'mean', 'zero')
VIM = {'embed_dims': 16, 'depth': 2}
ADAPTER = {
    'backbone': {'type': 'mmvim.VRWKV', 'arch': {'embed_dims': 16, 'depth': 4}, 'img_size': 32},
    'num_heads': 2,
    'conv_dims': 8,
    'groups': ((0, 3),),
    'fuse': 'last',
}


@pytest.fixture
def saved(tmp_path):
    def save(model: nn.Module) -> str:
        torch.save({'model': model.state_dict()}, tmp_path / 'three.pth')
        return str(tmp_path / 'three.pth')

    return save


def picture(side: int, channels: int) -> torch.Tensor:
    return torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(3))


def equal_pictures(side: int, bands: int, how: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture of 3 channels, and one of ``bands`` that must give the same."""
    three, more = picture(side, 3), picture(side, bands)
    if how == 'repeat':
        longer = three if bands > 3 else more
        both = longer[:, torch.arange(max(3, bands)) % min(3, bands)]
        return (three, both) if bands > 3 else (both, more)
    if how == 'mean':
        return three[:, :1].expand(-1, 3, -1, -1), three[:, :1].expand(-1, bands, -1, -1)
    kept = min(3, bands)
    three[:, kept:], more[:, :kept] = 0, three[:, :kept]
    return three, more


def outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        found = model.eval()(x)
    return [found] if isinstance(found, torch.Tensor) else list(found)


def same(model: nn.Module, other: nn.Module, side: int, bands: int, how: str, flip: bool = False) -> bool:
    three, more = equal_pictures(side, bands, how)
    more = more.flip(1) if flip else more
    pairs = zip(outputs(model, three), outputs(other, more), strict=True)
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)


@pytest.mark.parametrize('name', FAMILY_CASES)
def test_every_familys_stem(name, saved):
    case = FAMILY_CASES[name]
    model = randomised(case.build_tiny())
    side, file = 64 if 'depths' in case.tiny['arch'] else 32, saved(model)
    [kernel] = FAMILIES[name].picture_kernels
    for how in WAYS:
        five = case.build_tiny(in_channels=5)
        report = checkpoints.load_backbone(five, file, channel_change=how)
        assert report.resized == {kernel: f'3 to 5 channels ({how})'}
        assert kernel not in report.used and len(report.used) + 1 >= len(model.state_dict()) - len(report.assumed)
        assert same(model, five, side, 5, how)
        if how == 'mean':  # the controls: pictures for another way, or whose bands stand in another order
            assert not same(model, five, side, 5, 'repeat')
        else:
            assert not same(model, five, side, 5, how, flip=True)
    before = {key: value.clone() for key, value in five.state_dict().items()}
    for options in ({}, {'channel_change': 'refuse'}):
        with pytest.raises(CheckpointError, match=r"3 channels.*in_channels=5; .*channel_change='repeat'") as error:
            checkpoints.load_backbone(five, file, **options)
        assert error.value.misfit
    assert all(torch.equal(value, before[key]) for key, value in five.state_dict().items())


@pytest.mark.parametrize('bands', [1, 2, 4, 7, 12])
@pytest.mark.parametrize('how', WAYS)
def test_any_number_of_bands(how, bands, saved):
    model = randomised(Vim(VIM, img_size=32))
    other = Vim(VIM, img_size=32, in_channels=bands)
    checkpoints.load_backbone(other, saved(model), channel_change=how)
    assert same(model, other, 32, bands, how)


def test_the_kernels_themselves():
    kernel = torch.tensor([[3.0, 5.0, 7.0], [1.0, 0.0, 2.0]], dtype=torch.float16).reshape(2, 3, 1, 1)
    repeated = change_channels(kernel, 4, 'repeat')
    assert repeated.dtype == torch.float16 and repeated.flatten(1).tolist() == [[1.5, 5, 7, 1.5], [0.5, 0, 2, 0.5]]
    assert change_channels(kernel, 1, 'repeat').flatten().tolist() == [15, 3]
    assert change_channels(kernel, 6, 'mean').flatten(1).tolist() == [[2.5] * 6, [0.5] * 6]
    assert change_channels(kernel, 2, 'zero').flatten(1).tolist() == [[3, 5], [1, 0]]
    with pytest.raises(ValueError, match="how='refuse'"):
        change_channels(kernel, 4, 'refuse')


@pytest.mark.parametrize('how', WAYS)
def test_an_adapter_and_the_backbone_inside(how, saved):
    model = randomised(ViTAdapter(**ADAPTER))
    inner = {**ADAPTER['backbone'], 'in_channels': 5}
    five = ViTAdapter(**{**ADAPTER, 'backbone': inner})
    report = checkpoints.load_backbone(five, saved(model), channel_change=how)
    assert {name for name, why in report.resized.items() if why == f'3 to 5 channels ({how})'} == {
        'spm.stem.0.weight',
        'plain.patch_embed.projection.weight',
    }
    assert same(model, five, 32, 5, how)


def test_an_adapter_from_a_classifier(saved):
    """The file has no adapter, whose own stem is new; the backbone's inside is changed."""
    file = saved(randomised(ViTAdapter(**ADAPTER)).plain)
    inner = {**ADAPTER['backbone'], 'in_channels': 4}
    report = checkpoints.load_backbone(ViTAdapter(**{**ADAPTER, 'backbone': inner}), file, channel_change='mean')
    assert list(report.resized) == ['plain.patch_embed.projection.weight'] and 'spm.stem.0.weight' in report.fresh


class Unknown(nn.Module):
    """A backbone of no family."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.second(self.first(x))


@pytest.mark.parametrize('how', WAYS)
def test_a_backbone_of_no_family(how, saved):
    model, five = randomised(Unknown(3)), Unknown(5)
    file = saved(model)
    report = checkpoints.load_backbone(five, file, channel_change=how)
    assert report.resized == {'first.weight': f'3 to 5 channels ({how})'} and len(report.used) == 3
    assert same(model, five, 16, 5, how)
    with pytest.raises(CheckpointError, match='in_channels=5'):
        checkpoints.load_backbone(five, file)


def test_patches_and_channels_at_once(saved):
    """Vim's patches change their size, too: both are in the report."""
    model = randomised(Vim(VIM, img_size=32, patch_size=8, stride=8))
    other = Vim(VIM, img_size=64, patch_size=16, stride=16, in_channels=4)
    options = {'grid': (4, 4), 'stride': 8, 'patch_change': 'resample', 'channel_change': 'zero'}
    report = checkpoints.load_backbone(other, saved(model), **options)
    assert report.resized['patch_embed.proj.weight'] == '8 x 8 to 16 x 16 pixels; 3 to 4 channels (zero)'
    assert not other.patch_embed.proj.weight[:, 3].any() and other.patch_embed.proj.weight[:, :3].any()


@pytest.mark.parametrize('module', [Vim(VIM, img_size=32, in_channels=4), Unknown(4)])
def test_another_word_is_an_error(module, saved):
    with pytest.raises(CheckpointError, match="channel_change='copy' is not one of 'refuse', 'repeat', 'mean', 'zero'"):
        checkpoints.load_backbone(module, saved(module), channel_change='copy')


def test_in_a_config(saved):
    """As a user writes it."""
    model = randomised(Vim(VIM, img_size=32))
    init = {'type': 'Pretrained', 'checkpoint': saved(model), 'channel_change': 'repeat'}
    five = Vim(VIM, img_size=32, in_channels=5, init_cfg=init)
    five.init_weights()
    assert same(model, five, 32, 5, 'repeat')


@pytest.mark.parametrize('name', FAMILY_CASES)
def test_a_file_for_five_bands_is_read_as_one(name, saved):
    case = FAMILY_CASES[name]
    model = randomised(case.backbone(case.file_arch, in_channels=5))
    found = checkpoints.read(saved(model), arch=case.file_arch)
    assert found.backbone['in_channels'] == 5
    three = checkpoints.read(saved(randomised(case.backbone(case.file_arch))), arch=case.file_arch)
    assert 'in_channels' not in three.backbone
