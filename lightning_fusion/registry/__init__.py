"""Registry of published experts."""
