"""The recipe foe."""

RECIPES = {"foe": "protocol.foe"}
"""Its recipes, as paths below this package: the command line finds them here."""
