"""Views of a data module: by role, as a source domain, as a target domain, with overlapping domains."""
