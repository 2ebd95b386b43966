"""Runs units of work on a Ray cluster; Ray itself is an optional extra."""
