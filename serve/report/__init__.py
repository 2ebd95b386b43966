"""The report of an evaluation: its counts, tables and page, and the folder that holds them."""
