"""What the viewer of grids shows."""
