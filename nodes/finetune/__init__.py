"""The nodes that start fine-tunes, choose their settings and pick their checkpoints."""
