"""EveryDream2's configuration files as run settings."""
