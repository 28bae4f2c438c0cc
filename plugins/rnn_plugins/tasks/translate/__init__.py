"""Translate texts."""
