"""A paper's whole protocol as one typed function; ``lightning-fusion recipe NAME`` calls it."""
