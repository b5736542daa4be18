"""A table of pairs: its columns, its rows, what is selected."""
