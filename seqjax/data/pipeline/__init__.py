"""Pipelines from records to batches of fixed shapes: stream windows, length buckets, shuffled batches. Each resumes exactly."""
