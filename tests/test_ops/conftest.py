"""Memory that the operators do not initialise is NaN in all of these tests."""

import pytest


@pytest.fixture(autouse=True)
def _poisoned(poisoned_memory):
    """A module that wants none overrides the root's fixture."""
