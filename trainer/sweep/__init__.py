"""Sweeps: a baseline, the same run with one setting changed at a time, and how they compare."""
