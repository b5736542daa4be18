"""Pairs of image and caption: where they come from, which are kept, and how they are dealt out to a
training.
"""
