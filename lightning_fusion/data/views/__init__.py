"""A data module seen in another way: by role, as a source, as a target, with overlap."""
