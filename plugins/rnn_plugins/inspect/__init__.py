"""Describe cells and tasks without training them."""
