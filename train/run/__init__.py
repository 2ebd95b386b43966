"""Makes one RUN directory, from its first file to `_SUCCESS`."""
