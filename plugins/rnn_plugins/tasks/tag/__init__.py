"""Predict a label at every step."""
