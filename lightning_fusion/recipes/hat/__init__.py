"""The recipe hat."""
