"""The recipe frugal."""

RECIPES = {"frugal": "protocol.frugal"}
"""Its recipes, as paths below this package: the command line finds them here."""
