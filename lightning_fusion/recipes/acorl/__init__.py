"""The recipe acorl."""

RECIPES = {"acorl": "protocol.acorl"}
"""Its recipes, as paths below this package: the command line finds them here."""
ANSWERS = {"acorl": "serving.answer"}
"""Functions that answer for new samples with a finished run: ``predict --run`` finds them here."""
