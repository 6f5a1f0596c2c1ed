"""Weights from files: the original's checkpoints and others, in and out, fitted to a network."""
