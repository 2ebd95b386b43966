"""The raw tree as it lies there: what is found, never what it means."""
