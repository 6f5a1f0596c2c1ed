"""Data sets, the input pipeline, preprocessing, augmentation and corruptions."""
