"""HaT: train a small model for a new domain from selected source models."""
