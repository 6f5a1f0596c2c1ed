"""Training: state, optimizer, the step, the epoch as one program, checkpoints, metrics."""
