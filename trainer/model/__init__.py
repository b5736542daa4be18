"""The networks of a checkpoint: read from a single file and written back, their layers, attention,
text and memory.
"""
