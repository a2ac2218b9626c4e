"""Generative experts, and their fusion."""
