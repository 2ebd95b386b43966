"""Named configurations: one TOML file each."""
