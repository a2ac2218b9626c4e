"""The recipe foe."""

RECIPES = {"foe": "protocol.foe"}
"""Its recipes, as paths below this package: the command line finds them here."""
ANSWERS = {"foe": "serving.answer"}
"""Functions that answer for new samples with a finished run: ``predict --run`` finds them here."""
