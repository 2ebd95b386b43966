"""Rows of records to batches of uint8 pixels and draws."""
