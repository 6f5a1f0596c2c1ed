"""Classifying picture files with a trained run."""
