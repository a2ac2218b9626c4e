"""Sensor series: recordings, windows, feature tables."""
