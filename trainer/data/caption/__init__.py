"""Captions: written by a model, rewritten by rule, set by hand."""
