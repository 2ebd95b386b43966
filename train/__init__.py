"""Training: configuration, input pipeline, augmentation, optimizers and the training loop."""
