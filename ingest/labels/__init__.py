"""Which class each image has, and which source says so."""
