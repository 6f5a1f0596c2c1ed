"""Weight files, and weights adapted to other patches, grids and heads."""
