import pytest


@pytest.fixture(autouse=True)
def _undrawn(undrawn: None) -> None:
    """The runs of fixtures that tests share are drawn, and those of tests/test_configs.py."""
