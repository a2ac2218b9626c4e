"""HaT: expansion to a new domain by selected sources, sample-wise fusion and distillation."""
