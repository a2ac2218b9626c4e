"""The recipe hat."""

RECIPES = {"hat": "protocol.hat"}
"""Its recipes, as paths below this package: the command line finds them here."""
ANSWERS = {"hat": "serving.answer"}
"""Functions that answer for new samples with a finished run: ``predict --run`` finds them here."""
