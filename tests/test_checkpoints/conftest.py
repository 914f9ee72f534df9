"""Fixtures that write published files."""

from collections import OrderedDict

import golden.models
import published_files
import pytest
import torch


@pytest.fixture(scope='session')
def tensors():
    """The publisher's tensors of a golden case; the caller must not change them in place."""
    return lambda case: OrderedDict(golden.models.tensors(case))


@pytest.fixture
def write(tmp_path):
    """Write weights in a container; returns the file."""

    def call(weights, container='model', name='published.pth'):
        path = tmp_path / name
        if container == 'safetensors':
            published_files.save_safetensors(published_files.prefixed(weights, 'model.'), path)
        else:
            torch.save(published_files.CONTAINERS[container](weights), path)
        return str(path)

    return call
