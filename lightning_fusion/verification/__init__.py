"""Speaker verification: training, loss and metrics."""
