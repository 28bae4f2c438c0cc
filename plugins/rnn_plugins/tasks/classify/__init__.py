"""Give a sequence one label."""
