"""Forecast series of numbers."""
