"""What may be scored: folders, lists, tables, tars, records; here or in a store."""
