"""Fusion of experts: Wang et al., Fusing Models with Complementary Expertise, ICLR 2024 (arXiv 2310.01542)."""
