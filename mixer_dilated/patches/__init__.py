"""Patches: geometry (`geometry.Patches`), `extraction.extract_patches`, `blur.antialias`."""
