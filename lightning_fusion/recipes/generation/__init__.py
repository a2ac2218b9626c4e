"""Recipes for experts that write: generative, multiple_choice, text_evaluation."""
