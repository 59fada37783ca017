"""Training: truncated BPTT, losses, optimisers, checkpoints and the training loop."""
