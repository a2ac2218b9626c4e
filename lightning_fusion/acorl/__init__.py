"""Adversarial complementary representation learning: Kang et al., arXiv 2404.15704."""
