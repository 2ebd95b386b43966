"""The compiled training step: network, loss, gradients, optimizer, moving average."""
