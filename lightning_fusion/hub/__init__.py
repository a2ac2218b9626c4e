"""Repositories of the Hugging Face hub: what of a model they contain, how they are read, and their model cards."""
