"""Preprocessing that an expert applies to raw samples: images of any size, waveforms, texts."""
