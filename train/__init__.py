"""Configuration, input pipeline, augmentation, optimizer and the loop that trains."""
