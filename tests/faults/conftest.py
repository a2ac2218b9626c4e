import pytest


@pytest.fixture(autouse=True)
def _undrawn(undrawn: None) -> None:
    """What is in figures is tested elsewhere."""
