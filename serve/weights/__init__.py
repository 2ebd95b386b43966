"""Checkpoints from and for other programs."""
