"""The report of an evaluation: what it counts, its tables, its page, and the folder that holds them."""
