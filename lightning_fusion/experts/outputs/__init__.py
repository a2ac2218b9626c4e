"""Outputs of experts: collected once, stored, read as batches."""
