"""The recipe acorl."""

RECIPES = {"acorl": "protocol.acorl"}
"""Its recipes, as paths below this package: the command line finds them here."""
