"""What can be said of a cell without training it."""
