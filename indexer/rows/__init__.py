"""From counts and weights to the rows of the index."""
