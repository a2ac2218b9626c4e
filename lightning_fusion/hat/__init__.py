"""HaT: a new domain gets a small model of its own from selected sources. See ``docs/methods``."""
