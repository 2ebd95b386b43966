"""Runs one job as several processes on one or more machines: starts, watches and stops them, and sums over them."""
