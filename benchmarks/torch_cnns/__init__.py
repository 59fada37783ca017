"""The networks of `seqjax.cnn` in plain torch, with torchvision's key names, for comparison in tests and benchmarks."""
