"""Read the symbols in an image by looking here and there."""
