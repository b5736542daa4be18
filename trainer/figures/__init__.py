"""What a run's records say: curves, heat map, pairs that stand out, and all of it in words."""
