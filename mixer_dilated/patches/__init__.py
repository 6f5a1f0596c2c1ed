"""Patches: geometry (`geometry.Patches`), `extraction.extract_patches`, `blur.low_pass`."""
