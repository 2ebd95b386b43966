"""Random draws, and what applies them to pixels on the host and in the compiled graph."""
