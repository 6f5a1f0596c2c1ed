"""Data: where examples come from (`sources`), their cache (`cache`), augmentation."""
