"""What every room needs and none owns: errors, files, the protocol of artefacts, tars, terminal, HTML, signals, host."""
