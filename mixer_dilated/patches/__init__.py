"""Patches: geometry (`geometry.Patches`), `extraction.extract_patches`, `extraction.antialias`."""
