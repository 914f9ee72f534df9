"""Forward hooks fire on every backend. On interpreted Triton kernels: tests/test_ops/interpreted_models.py."""

import functools
import os

import pytest
from families import FAMILY_CASES, build_smallest
from hooked import assert_hooks_fire

from mmvim.models.layers.vim_block import VimBlock
from mmvim.ops import backends
from mmvim.ops.backends import ENV


@pytest.mark.parametrize('family', FAMILY_CASES)
@pytest.mark.parametrize('backend', ['torch', 'native'])
def test_hooks_fire(family, backend, monkeypatch):
    usable, reason = backends()[backend]
    if not usable:
        pytest.skip(f'{backend}: {reason}')
    model, picture = build_smallest(family)
    assert_hooks_fire(model, FAMILY_CASES[family].blocks(model), picture, backend, monkeypatch)


def test_a_block_that_is_passed_by_is_seen(monkeypatch):
    """The control: on one backend a block's forward runs without its hooks."""
    model, picture = build_smallest('vim')
    call = VimBlock.__call__

    def pass_by(block, *inputs):
        return (block.forward if os.environ[ENV] == 'torch' else functools.partial(call, block))(*inputs)

    monkeypatch.setattr(VimBlock, '__call__', pass_by)
    with pytest.raises(AssertionError):
        assert_hooks_fire(model, model.layers, picture, 'torch', monkeypatch)
