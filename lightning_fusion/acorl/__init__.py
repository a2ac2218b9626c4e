"""ACoRL: train a model that is complementary to a pool of frozen experts."""
