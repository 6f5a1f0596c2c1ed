"""Patches: the geometry (`geometry.Patches`) and the extraction (`extraction.extract_patches`)."""
