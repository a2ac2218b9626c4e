"""The recipe foe."""
