"""The kinds of inputs that can be scored: folders, lists, tables, tars, records; on this machine or in a store."""
