import pytest

from mmvim.compat import install, remove


@pytest.fixture
def names_served():
    """The names are importable during the test, and not after it."""
    if install():
        pytest.skip('originals are installed')
    yield
    remove()
