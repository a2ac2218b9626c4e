"""The recipe acorl."""
