"""Sends the epochs of a run to other programs that show them: MLflow, Weights & Biases, TensorBoard."""
