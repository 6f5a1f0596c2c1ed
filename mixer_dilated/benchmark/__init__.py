"""The command `benchmark`: a training step against plain Flax, PyTorch and the machine's speed."""
