"""One PREDICTIONS directory: plan, parts, schema, verification."""
