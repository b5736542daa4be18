"""Axes become cells."""
