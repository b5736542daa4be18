"""Whether a cell is what it says."""
