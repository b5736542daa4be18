"""The nodes and routes of grids. What they call is in engine/."""
