"""Speech: recordings of speakers, crops and features."""
