"""The HTML report of a RECORDS directory: what it counts, its charts, and its page."""
