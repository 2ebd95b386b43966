"""One command as several processes: starts ranks, watches them, and lets them add numbers up."""
