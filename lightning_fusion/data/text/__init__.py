"""Texts: files, tokens, public layouts."""
