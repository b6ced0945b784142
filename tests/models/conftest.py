"""Data sets that tests use where they are; nothing is downloaded by a test."""

import pytest

from pi_compiler.models.data import is_local


@pytest.fixture
def mnist() -> str:
    if not is_local("mnist"):
        pytest.skip("MNIST is neither in PI_DATA_DIR nor in the cache")
    return "mnist"
