"""Records to batches of fixed shapes: windows of a stream, length buckets, shuffled batches; each can stop and resume exactly."""
