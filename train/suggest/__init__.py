"""Suggests a configuration for records: what they hold, how fast this machine is, and what follows from both."""
