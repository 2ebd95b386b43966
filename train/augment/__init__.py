"""Augmentation: random draws, and the code that applies them to pixels on the host and in the compiled graph."""
