"""Inference with trained networks: evaluation, calibration, prediction, export, linear probe."""
