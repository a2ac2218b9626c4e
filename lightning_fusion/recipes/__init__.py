"""Protocols of the papers, each as one typed function that ``lightning-fusion recipe NAME`` calls."""
