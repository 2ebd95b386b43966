"""Weights from other programs and for other programs: their names, their files, what lies beside them."""
