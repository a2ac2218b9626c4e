"""What tests of several packages share."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
