"""Which pictures to leave out, and a look at them."""
