"""Recipes for language models: generative, multiple_choice, text_evaluation."""

RECIPES = {
    "generative": "headlines.generative",
    "multiple_choice": "multiple_choice.multiple_choice",
    "text_evaluation": "text_evaluation.text_evaluation",
}
"""Its recipes, as paths below this package: the command line finds them here."""
