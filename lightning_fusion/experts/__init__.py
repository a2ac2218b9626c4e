"""Experts, pools of experts, and cached outputs of a pool."""
