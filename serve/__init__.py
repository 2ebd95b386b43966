"""A frozen network over rows or image files: eval, predict, infer."""
