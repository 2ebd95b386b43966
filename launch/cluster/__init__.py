"""Units of work over a Ray cluster; Ray itself is an optional extra."""
