"""Pairs of image and caption: where they come from, which are kept, and how training uses them."""
