"""ACoRL: train the next expert to know what the pool does not."""
