"""Cells become pixels, in this process."""
