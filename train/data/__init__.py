"""Input: turns rows of records into batches of uint8 pixels and draws."""
