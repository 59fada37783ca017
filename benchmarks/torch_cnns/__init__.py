"""The networks of `seqjax.cnn` in plain torch, with torchvision's key names: what tests and benchmarks compare with."""
