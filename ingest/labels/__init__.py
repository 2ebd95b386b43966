"""Which class each image has, and who says so."""
