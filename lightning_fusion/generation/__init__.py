"""Experts that write text, and their fusion."""
