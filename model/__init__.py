"""What a checkpoint means: ConvNeXt, its variants, the evaluation transform, weights in and out."""
