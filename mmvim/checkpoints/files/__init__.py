"""From a location to tensors: where a file is, what it is by its first bytes, and what is in it. Knows no family."""
