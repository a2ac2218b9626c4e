"""The recipe hat."""

RECIPES = {"hat": "protocol.hat"}
"""Its recipes, as paths below this package: the command line finds them here."""
