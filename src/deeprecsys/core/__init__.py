"""Vocabulary and decisions. No clock, no randomness, no I/O, no torch: `now_s` is an argument."""
