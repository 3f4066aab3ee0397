"""What the pass over the text counts for each feature: bounded memory, associative merge."""
