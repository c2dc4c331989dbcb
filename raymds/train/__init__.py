"""Training: one step, its checkpoints, the loop on a worker, the driver of the workers."""
