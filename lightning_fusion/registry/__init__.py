"""Published experts behind one address."""
