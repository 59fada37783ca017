"""Training: truncated BPTT, losses, optimisers, checkpoints, the one loop, and the command line that experiments share."""
