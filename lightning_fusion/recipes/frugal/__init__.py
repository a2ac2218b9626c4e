"""The recipe frugal."""

RECIPES = {"frugal": "protocol.frugal"}
"""Its recipes, as paths below this package: the command line finds them here."""
ANSWERS = {"frugal": "serving.answer"}
"""Functions that answer for new samples with a finished run: ``predict --run`` finds them here."""
