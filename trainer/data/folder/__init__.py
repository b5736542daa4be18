"""A folder of pairs, in each of the layouts that are known."""
