"""mmvim's backbones in a model of transformers."""

from pathlib import Path

import pytest
import torch

from mmvim.checkpoints import CheckpointError
from mmvim.models import Vim

transformers = pytest.importorskip('transformers', reason='the extra "transformers" is not installed')

from mmvim.hub import auto_backbone  # noqa: E402
from mmvim.hub.auto_backbone import MmvimBackbone, MmvimBackboneConfig  # noqa: E402

VIM = {'type': 'mmvim.Vim', 'arch': {'embed_dims': 16, 'depth': 3}, 'img_size': 64, 'out_indices': (0, 1, 2)}
VMAMBA = {
    'type': 'mmvim.VMamba', 'arch': {'dim': 8, 'depths': [1, 1, 1, 1]}, 'out_indices': [0, 1, 2, 3],
}  # fmt: skip


def test_it_is_short():
    assert len(Path(auto_backbone.__file__).read_text('utf-8').splitlines()) <= 100


def test_auto_backbone_builds_it_and_asks_for_some_stages_only():
    torch.manual_seed(0)
    config = MmvimBackboneConfig(VIM, out_features=['stage1', 'stage2'])
    model = transformers.AutoBackbone.from_config(config).eval()
    assert model.channels == [16, 16] and len(model.backbone.layers) == 2  # the third is not built
    own = Vim(VIM['arch'], img_size=64, out_indices=(0, 1)).eval()
    own.load_state_dict(model.backbone.state_dict())
    x = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        maps = model(x).feature_maps
        assert all(torch.equal(a, b) for a, b in zip(maps, own(x), strict=True)) and len(maps) == 2


def test_a_config_from_elsewhere_calls_no_function(tmp_path):
    hurt = {'type': 'os.mkdir', 'path': str(tmp_path / 'hurt'), 'out_indices': [0]}
    MmvimBackboneConfig(hurt).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"has type='os\.mkdir', which is no registered"):
        transformers.AutoBackbone.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
    assert not (tmp_path / 'hurt').exists()


def test_weights_are_initialised_as_mmvim_does():
    torch.manual_seed(0)
    adapted = transformers.AutoBackbone.from_config(MmvimBackboneConfig(VIM)).backbone
    torch.manual_seed(0)
    own = Vim(VIM['arch'], img_size=64, out_indices=(0, 1, 2))
    own.init_weights()
    others = own.state_dict()
    assert all(torch.equal(value, others[name]) for name, value in adapted.state_dict().items())


def test_a_segmentor_of_transformers_learns(tmp_path):
    torch.manual_seed(0)
    config = transformers.UperNetConfig(
        backbone_config=MmvimBackboneConfig(VMAMBA), hidden_size=16, num_labels=3, auxiliary_in_channels=32,
        auxiliary_channels=8, pool_scales=[1, 2],
    )  # fmt: skip
    model = transformers.UperNetForSemanticSegmentation(config)
    pictures = torch.randn(2, 3, 64, 64)
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    labels[:, :, 32:] = 1  # the right half, which is brighter
    pictures[:, :, :, 32:] += 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = model(pixel_values=pictures, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.backbone.parameters())
    model.save_pretrained(tmp_path)
    again = transformers.UperNetForSemanticSegmentation.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(pictures).logits, model.eval()(pictures).logits, atol=1e-4, rtol=1e-4)


def test_a_backbone_is_saved_and_read(tmp_path):
    model = MmvimBackbone(MmvimBackboneConfig(VIM)).eval()
    model.save_pretrained(tmp_path)
    again = MmvimBackbone.from_pretrained(tmp_path).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(x)[0], again(x)[0], strict=True))


@pytest.mark.parametrize('backbone', [{'arch': 'tiny', 'out_indices': (0,)}, {'type': 'mmvim.Vim'}])
def test_configs_that_lack_something(backbone):
    with pytest.raises(ValueError, match=r"lacks '(type|out_indices)'"):
        MmvimBackboneConfig(backbone)
