"""What one cell is, and the graph that makes it."""
