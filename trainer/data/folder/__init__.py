"""Reading a folder of pairs, in each of the known layouts."""
