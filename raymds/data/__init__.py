"""Data: the global batch as a function of (seed, step), shards on disk, rendered scenes, tensors."""
