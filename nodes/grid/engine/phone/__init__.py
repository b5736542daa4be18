"""Voting from a phone: a server of its own that shows the pictures of one grid and takes votes."""
