"""The release card of a checkpoint: where it comes from, how it looks and how to make it again."""
