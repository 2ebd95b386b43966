"""Linear heads and nearest neighbours on the features of a frozen network."""
