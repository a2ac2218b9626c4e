"""The recipe frugal."""
