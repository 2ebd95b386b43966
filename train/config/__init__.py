"""What a run is: typed configuration, presets' policy grammar, steps and learning rates. Pure."""
