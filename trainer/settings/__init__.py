"""The settings of a run, their presets and EveryDream2's files."""
