"""The raw tree: which files it contains, never what they mean."""
