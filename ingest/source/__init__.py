"""The raw tree as it is: which files it holds, never what they mean."""
