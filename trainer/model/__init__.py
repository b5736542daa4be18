"""Single file to networks and back, and what is done to their layers, attention and memory."""
