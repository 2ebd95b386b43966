"""What every package needs and none owns: errors, files, the protocol, the terminal, HTML."""
