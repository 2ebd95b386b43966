"""Runs one command as several processes: starts ranks, watches them, and lets them add up numbers."""
