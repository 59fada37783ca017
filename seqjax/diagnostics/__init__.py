"""What a trained network does, to look at."""
