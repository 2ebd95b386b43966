"""A PREDICTIONS directory: its plan, its parts, their schema, and the check that all are whole."""
